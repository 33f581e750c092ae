#pragma once
// What a model folder is made from, and whether it can be, for every command that writes one
// (folder_build.h).

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/base/progress.h"
#include "moerge/model/model.h"
#include "moerge/plan/folder_layout.h"
#include "moerge/plan/plan.h"

namespace moerge {

/// Which of several runs, on several machines say, this one is.
struct BuildPart {
  int64_t number = 0, count = 0;  // 1 to count; count 0: the only one
};

inline constexpr int64_t kMaxParts = 100'000;

struct BuildOptions {
  std::filesystem::path out = {};
  bool overwrite = false;
  bool copy_tokenizer = true;
  bool write_card = true;
  bool verify = false;  // reopen the result, compare every byte with its source, write a manifest
  int64_t max_shard_bytes = 5'000'000'000;
  bool share_blocks = true;  // lay shards out for it, where the file system can
  BuildPart part = {};
  bool join = false;              // complete what the parts have written
  std::string made_with = {};     // the program's version: another one's unfinished work is of no use
  std::string routers_with = {};  // the flags that decide how hidden states are computed
  int threads = 1;
};

/// What goes into the folder beside the plan's tensors.
struct FolderContent {
  const Json& config;  // config.json; null: none
  // Puts the tokenizer's files there; null: there are none.
  std::function<void(const std::filesystem::path& folder)> write_tokenizer;
  std::string card;                                             // README.md; empty: none
  std::vector<std::pair<std::string, std::string>> files = {};  // further ones: name, content
  std::vector<const Model*> sources = {};                       // of the plan's tensors, for the manifest
};

/// The folder's own name, for the card's title.
std::string folder_name(const std::filesystem::path& out);

/// The shards, as options say. Looks at the file system that holds options.out, if that is not empty.
FolderLayout lay_out_folder(const Plan& plan, const BuildOptions& options);

/// Bytes that the folder takes, its small files counted generously; blocks that it shares with its sources
/// are no more than they were.
int64_t needed_space(const Plan& plan, const FolderLayout& layout);

/// Refusals that need no work: an output that exists, lies in a source, or does not fit on the disk.
void check_folder(const Plan& plan, const FolderLayout& layout, const std::vector<const Model*>& sources,
                  const BuildOptions& options);

}  // namespace moerge
