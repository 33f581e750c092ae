#include "moerge/merge/output_config.h"

#include <fmt/format.h>

#include <algorithm>

namespace moerge {
namespace {

// Lists with an entry for each layer.
constexpr const char* kByLayer[] = {"layer_types", "mlp_layer_types", "no_rope_layers", "attention_types"};

// Weights were trained for these, and mean something else with others.
constexpr const char* kMeaning[] = {"hidden_act",           "hidden_activation",   "rms_norm_eps",
                                    "layer_norm_eps",       "rope_theta",          "rope_scaling",
                                    "rope_parameters",      "num_attention_heads", "num_key_value_heads",
                                    "partial_rotary_factor"};

// The entries of the layers that the output has, of the model that each slice's first source is.
void settle_layer_lists(const MergeInput& input, const MergeModel& from, Json& config) {
  for (const char* key : kByLayer) {
    const auto own = config.find(key);
    if (own == config.end() || !own->is_array() || std::ssize(*own) != from.layout.layers()) continue;
    Json entries = Json::array();
    for (const MergeSlice& slice : input.config.slices) {
      const MergeSource& source = slice.sources.front();
      const MergeModel& model = input.models.at(source.model);
      const Json& list = model.model->config.raw.value(key, Json());
      const auto [begin, end] = layers_of(source, model);
      for (int64_t layer = begin; layer < end; layer++)
        if (list.is_array() && layer < std::ssize(list)) entries.push_back(list[static_cast<size_t>(layer)]);
    }
    *own = std::move(entries);
  }
}

void compare_meaning(const MergeInput& input, const MergeModel& from, std::vector<std::string>& warnings) {
  const Json& own = from.model->config.raw;
  for (const auto& [reference, model] : input.models)
    for (const char* key : kMeaning) {
      const Json &raw = model.model->config.raw, here = own.value(key, Json()),
                 there = raw.value(key, Json());
      if (here != there && !here.is_null() && !there.is_null())
        warnings.push_back(
            fmt::format("\"{}\" of config.json is {} in \"{}\" and {} in \"{}\"; the result has the "
                        "latter, and the former's weights were not trained for it",
                        key, there.dump(), reference, here.dump(), from.model->name));
    }
}

// Rows of a tensor of the result; 0 where it has none.
int64_t rows_of(const MergedTensors& tensors, const std::string& name) {
  const auto found = std::ranges::find_if(
      tensors.tensors, [&](const MergedTensor& tensor) { return tensor.tensor.spec.name == name; });
  return found == tensors.tensors.end() || found->tensor.spec.shape.empty() ? 0 : found->tensor.spec.shape[0];
}

}  // namespace

Json make_output_config(const MergeInput& input, const MergeModel& from, const MergedTensors& tensors,
                        std::vector<std::string>& warnings) {
  Json config = from.model->config.raw;
  config[from.layout.count_key()] = tensors.layers;
  settle_layer_lists(input, from, config);
  const std::optional<DType> dtype = input.config.out_dtype ? input.config.out_dtype : input.config.dtype;
  if (dtype) {
    // transformers 5 writes "dtype", all versions read the older name.
    config.erase("dtype");
    config["torch_dtype"] = std::string(info(*dtype).torch);
  }
  const std::string embedding = from.layout.embedding();
  const int64_t rows = embedding.empty() ? 0 : rows_of(tensors, embedding);
  const StoredTensor* own = embedding.empty() ? nullptr : from.model->checkpoint.find(embedding);
  // A table that is larger than the vocabulary, as some models have, stays one.
  if (rows > 0 && own && own->rows() != rows) config["vocab_size"] = rows;
  const auto has_head = [&](const auto& list, const auto& name_of) {
    return std::ranges::any_of(list, [&](const auto& tensor) {
      const std::string& name = name_of(tensor);
      return name != embedding && from.layout.comes_after(name) && from.layout.is_by_token(name);
    });
  };
  if (has_head(tensors.tensors,
               [](const MergedTensor& t) -> const std::string& { return t.tensor.spec.name; }) &&
      !has_head(from.model->checkpoint.tensors(),
                [](const StoredTensor& t) -> const std::string& { return t.spec.name; }))
    config["tie_word_embeddings"] = false;
  compare_meaning(input, from, warnings);
  return config;
}

}  // namespace moerge
