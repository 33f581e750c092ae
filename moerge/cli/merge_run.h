#pragma once
// What the commands that write a merged model have in common.

#include "moerge/cli/folder_flags.h"
#include "moerge/cli/merge_source.h"

namespace moerge {

struct MergeFlags : FolderFlags {
  SourceOptions how;  // its cache is set by start_merge()
  bool truncate_embeddings = false;

  MergeOptions options() const;
};

/// All but CONFIG and OUT.
void add_merge_flags(CLI::App& app, MergeFlags& flags);

/// What can be refused before a model is looked at; fills in what the flags say together.
void start_merge(MergeFlags& flags);

/// The rest of such a command: warnings, summary, and the folder, unless this is a dry run.
void write_merge(const MergePlan& merge, const MergeFlags& flags, ModelFetcher& fetcher, Reporter& reporter);

}  // namespace moerge
