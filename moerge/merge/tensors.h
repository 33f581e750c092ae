#pragma once
// Which tensors a merge has, what each is made of and with which values of the parameters.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "moerge/formats/checkpoint.h"
#include "moerge/merge/config.h"
#include "moerge/merge/model_layout.h"
#include "moerge/model/model.h"

namespace moerge {

/// A model of a merge.
struct MergeModel {
  const Model* model;
  ModelLayout layout;
  /// By name: what is merged instead of the model's own tensor (embeddings in another order of tokens).
  std::map<std::string, StoredTensor> replaced = {};

  const StoredTensor* find(const std::string& name) const;
};

/// What becomes of a tensor that some models do not have.
enum class MissingTensors {
  by_method,     // MergeMethod::missing
  intersection,  // it is left out
  union_,        // it is merged of those that have it, or the only one's
};

/// Everything that decides the tensors. `models` are by MergeSource::model.
struct MergeInput {
  const MergeConfig& config;
  const std::map<std::string, MergeModel>& models;
  uint64_t seed = 0;
  bool truncate_embeddings = false;  // to the rows that all models have
  MissingTensors missing = MissingTensors::by_method;
};

struct MergedTensor {
  StoredTensor tensor;  // under its name in the result
  DType dtype;          // that it is written in
};

struct MergedTensors {
  std::vector<MergedTensor> tensors;
  int64_t layers = 0;
  std::vector<std::string> problems, warnings;
};

/// In which mergekit computes where nothing is said: what PyTorch makes of tensors of these types.
DType common_dtype(const std::vector<const StoredTensor*>& tensors);

/// The layers of a source: all of its model's where the configuration names no range.
std::pair<int64_t, int64_t> layers_of(const MergeSource& source, const MergeModel& model);

/// Of a configuration whose layer ranges lie in its models. What is wrong is in `problems`, each said once.
MergedTensors make_merged_tensors(const MergeInput& input);

}  // namespace moerge
