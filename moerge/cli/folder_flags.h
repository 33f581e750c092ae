#pragma once
// Flags of the commands that write a model folder.

#include <CLI/CLI.hpp>
#include <string>

#include "moerge/base/parallel.h"
#include "moerge/plan/model_folder.h"

namespace moerge {

struct FolderFlags {
  std::string out, shard_size = "5B", layout_files = "auto", cache;
  int threads = default_threads(), verbosity = 0;
  bool copy_tokenizer = true, write_card = true;
  bool quiet = false, dry_run = false, json = false, overwrite = false, verify = false;

  /// Throws usage when a size makes no sense.
  BuildOptions build_options() const;
  Verbosity level() const;
};

/// Flags of the groups "Files", "How the work is done" (threads only) and "What is reported". `tokenizer`:
/// whose, for the help.
void add_shard_flag(CLI::App& app, FolderFlags& flags);
void add_cache_flag(CLI::App& app, FolderFlags& flags);
void add_file_flags(CLI::App& app, FolderFlags& flags, const std::string& tokenizer);
void add_thread_flag(CLI::App& app, FolderFlags& flags);
void add_json_flag(CLI::App& app, FolderFlags& flags);
void add_report_flags(CLI::App& app, FolderFlags& flags);

/// What --dry-run prints: the summary of a plan, and its steps where `every_step`.
std::string dry_run_text(const std::string& summary, const Plan& plan, bool every_step);

inline constexpr const char* kWorkGroup = "How the work is done";

}  // namespace moerge
