#pragma once
// From a plan to a model folder that appears whole or not at all, for every command that writes one.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/base/progress.h"
#include "moerge/model/model.h"
#include "moerge/plan/plan.h"

namespace moerge {

struct BuildOptions {
  std::filesystem::path out = {};
  bool overwrite = false;
  bool copy_tokenizer = true;
  bool write_card = true;
  bool verify = false;  // reopen the result and compare every byte with its source
  int64_t max_shard_bytes = 5'000'000'000;
  int threads = 1;
};

/// What goes into the folder beside the plan's tensors.
struct FolderContent {
  const Plan& plan;
  const Json& config;                                           // config.json
  const Model& tokenizer;                                       // whose tokenizer files are copied
  const std::string* chat_template = nullptr;                   // instead of theirs
  std::string card;                                             // README.md
  std::vector<std::pair<std::string, std::string>> files = {};  // further ones: name, content
};

/// The folder's own name, for the card's title.
std::string folder_name(const std::filesystem::path& out);

/// Bytes that the folder takes, its small files counted generously.
int64_t needed_space(const Plan& plan);

/// Refusals that need no work: an output that exists, lies in a source, or does not fit on the disk.
void check_folder(const Plan& plan, const std::vector<const Model*>& sources, const BuildOptions& options);

/// Builds beside options.out and renames at the end; on any failure nothing is left. `check` is called
/// between pieces of work and may throw.
void write_model_folder(const FolderContent& content, const BuildOptions& options,
                        const std::function<void()>& check, Reporter& reporter);

}  // namespace moerge
