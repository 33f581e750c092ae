#pragma once
// Which tensors of a model are of which layer, as far as a merge has to know it: layers are taken from one
// place and put into another, and everything else belongs before or after them.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/tensor/tensor.h"

namespace moerge {

class ModelLayout {
 public:
  /// Of a known model_type, else found out from the names: the tensors' first number is their layer's.
  /// `where` is the model, for messages. Throws input when layers are missing or config.json names another
  /// number of them, unsupported when there is no way to tell.
  ModelLayout(const Json& config, const std::vector<TensorSpec>& tensors, const std::string& where);

  /// Of tensors that belong to no layers.
  ModelLayout() = default;

  int64_t layers() const { return layers_; }
  /// "num_hidden_layers".
  const std::string& count_key() const { return count_key_; }
  /// False: the names were not known, and this is a guess that has to be said.
  bool is_known() const { return known_; }
  const std::string& prefix() const { return prefix_; }

  /// Empty outside the layers.
  std::optional<int64_t> layer_of(std::string_view name) const;
  /// The same tensor of another layer.
  std::string in_layer(std::string_view name, int64_t layer) const;
  /// Outside the layers: with the last of them rather than with the first.
  bool comes_after(std::string_view name) const;
  /// The tensor of the tokens' embeddings; empty where it is not known.
  std::string embedding() const { return by_token_.empty() ? "" : by_token_.front(); }
  /// Has a row for each token of the vocabulary.
  bool is_by_token(std::string_view name) const;

 private:
  void infer(const Json& config, const std::vector<TensorSpec>& tensors, const std::string& where);
  void count(const Json& config, const std::vector<TensorSpec>& tensors, const std::string& where);

  bool known_ = true, has_layers_ = false;
  std::string prefix_, count_key_;
  int64_t layers_ = 0;
  std::vector<std::string> by_token_, after_;
};

}  // namespace moerge
