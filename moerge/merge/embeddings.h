#pragma once
// Tensors with a row for each token (embeddings, output matrices, their biases) in a merge's vocabulary.

#include <optional>
#include <vector>

#include "moerge/formats/checkpoint.h"
#include "moerge/merge/vocabulary.h"

namespace moerge {

/// The models' versions of one tensor, as long as MergedVocabulary::models.
struct ByTokenTensors {
  /// Null where a model has none: an output matrix that is tied. Those of models that are not merged here are
  /// only what rows are taken from on request.
  std::vector<const StoredTensor*> stored;
  std::vector<bool> merged;    // which of them are merged; empty: all that are there
  std::optional<size_t> base;  // whose rows are preferred for tokens that another lacks
};

/// What is merged, in the result's vocabulary: for each model that is merged and has the tensor the same one
/// with MergedVocabulary::rows rows, computed whenever somebody reads them, in `dtype`; the stored tensor
/// itself where nothing changes. Empty for the others.
///
/// A token's row is the model's own. Where it has none, or the settings force another, it is what the
/// settings say; else the base's; else the mean of those that have one, added up and divided in `dtype` in
/// the models' order; else zeros. Rows of no token, the padding among them, are the mean of all that are a
/// token's, summed in the order in which PyTorch sums a column (a tensor of one number a row it sums in
/// another one). A few rows are in memory at a time.
///
/// Throws input for tensors that do not fit each other or their embeddings, config where the settings take a
/// row from a model that has no such tensor, naming all such tokens.
std::vector<std::optional<StoredTensor>> in_vocabulary(const MergedVocabulary& vocabulary,
                                                       const ByTokenTensors& tensors, DType dtype);

}  // namespace moerge
