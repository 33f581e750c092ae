#pragma once
// From a configuration to a plan: opens the models, finds out what each tensor is made of, and settles
// config.json. Reads headers, configurations and tokenizers; no weights.

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moerge/base/temporary_folder.h"
#include "moerge/merge/chat_template.h"
#include "moerge/merge/config.h"
#include "moerge/merge/tensors.h"
#include "moerge/merge/vocabulary.h"
#include "moerge/model/model.h"
#include "moerge/plan/plan.h"

namespace moerge {

struct MergeOptions {
  bool allow_mixed = false;  // --allow-crimes: models of several families
  uint64_t seed = 0;
  bool truncate_embeddings = false;  // --unsafe-truncate-embeddings: to the rows that all models have
  MissingTensors missing = MissingTensors::by_method;
};

/// Opens the model of a reference, with Families::any; throws config when there is none.
using OpenModel = std::function<OpenedModel(const std::string& reference)>;

struct MergePlan {
  MergeConfig config;
  OpenedModels opened;
  // Of models, not of files of tensors:
  const Model* tokenizer = nullptr;            // whose tokenizer files the result has
  std::optional<MergedVocabulary> vocabulary;  // or what has become of them
  std::optional<std::string> chat_template;    // instead of theirs
  Json model_config;                           // config.json of the result
  // Its tensors, computed when they are read, in the type in which that is done.
  Checkpoint result = Checkpoint::of_tensors({}, {});
  Plan plan;                          // one step a tensor of `result`
  std::vector<const Model*> sources;  // that are on disk, those of merged models included
  DType dtype = DType::f32;           // of most of it
  int64_t layers = 0, parameters = 0;
  std::vector<std::string> warnings;
};

/// The same of files of tensors that are no models: tensors of one name are merged, there are no layers, no
/// config.json and no tokenizer.
std::unique_ptr<MergePlan> plan_state_dicts(MergeConfig config, const OpenModel& open,
                                            const MergeOptions& options);

/// Puts the result's tokenizer files into a folder, as write_tokenizer_files() does.
void write_merge_tokenizer(const MergePlan& merge, const std::filesystem::path& folder);

/// Where these files lie already; where the merge changes any, in a folder made for them.
class TokenizerFolder {
 public:
  explicit TokenizerFolder(const MergePlan& merge);
  /// A folder, or a GGUF file.
  const std::filesystem::path& path() const { return made_ ? made_->path() : path_; }

 private:
  std::filesystem::path path_;
  std::unique_ptr<TemporaryFolder> made_;
};

/// Throws config, input or unsupported with every problem found, one a line.
std::unique_ptr<MergePlan> plan_merge(MergeConfig config, const OpenModel& open, const MergeOptions& options);

}  // namespace moerge
