#pragma once
// Model folders whose tokenizers and embeddings a test says; the rest is as small as it can be.

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/model/model.h"
#include "moerge/testing/temp_dir.h"
#include "moerge/testing/tiny_model.h"

namespace moerge::testing {

using TokenRows = std::vector<std::vector<float>>;

inline constexpr const char* kEmbeddings = "model.embed_tokens.weight";
inline constexpr const char* kHead = "lm_head.weight";

inline TinyTensor float_tensor(const std::string& name, const TokenRows& rows) {
  std::string bytes;
  for (const std::vector<float>& row : rows)
    bytes.append(reinterpret_cast<const char*>(row.data()), row.size() * sizeof(float));
  return {name, "F32", {std::ssize(rows), rows.empty() ? 0 : std::ssize(rows[0])}, bytes};
}

/// Four numbers a token, which say the model and the token.
inline TokenRows numbered_rows(int64_t rows, float model) {
  TokenRows out;
  for (int64_t i = 0; i < rows; i++) {
    const auto row = static_cast<float>(i);
    out.push_back({model, row, model * 100 + row, -row});
  }
  return out;
}

/// DIR/NAME of one layer. `files` are texts by name; config.json gets vocab_size and what `config` says.
inline std::unique_ptr<Model> vocabulary_model(const TempDir& dir, const std::string& name,
                                               const std::vector<std::pair<std::string, std::string>>& files,
                                               const TokenRows& embeddings, const TokenRows* head = nullptr,
                                               const Json& config = Json::object()) {
  Json json = {{"model_type", "llama"},
               {"architectures", {"LlamaForCausalLM"}},
               {"hidden_size", 4},
               {"intermediate_size", 4},
               {"num_hidden_layers", 1},
               {"num_attention_heads", 2},
               {"num_key_value_heads", 2},
               {"torch_dtype", "float32"},
               {"vocab_size", embeddings.size()},
               {"tie_word_embeddings", head == nullptr}};
  json.update(config);
  dir.write(name + "/config.json", json.dump());
  for (const auto& [file, text] : files) dir.write(name + "/" + file, text);
  std::vector<TinyTensor> tensors = {float_tensor(kEmbeddings, embeddings)};
  if (head) tensors.push_back(float_tensor(kHead, *head));
  for (const char* part : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})
    tensors.push_back({std::string("model.layers.0.") + part + ".weight", "F32", {4, 4}, f32_bytes(16, 1)});
  for (const char* part :
       {"model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"})
    tensors.push_back({std::string(part) + ".weight", "F32", {4}, f32_bytes(4, 1)});
  dir.write(name + "/model.safetensors", safetensors_bytes(tensors));
  return std::make_unique<Model>(name, ModelLocation{.path = dir / name});
}

/// All values, read `step` rows at a time.
inline TokenRows rows_of(const StoredTensor& tensor, int64_t step = 1 << 20) {
  TokenRows out;
  const auto columns = static_cast<size_t>(tensor.row_elements());
  for (int64_t first = 0; first < tensor.rows(); first += step) {
    const int64_t count = std::min(step, tensor.rows() - first);
    std::vector<float> values(static_cast<size_t>(count) * columns);
    read_row_values(tensor, first, count, values);
    for (size_t i = 0; i < static_cast<size_t>(count); i++)
      out.emplace_back(values.begin() + static_cast<std::ptrdiff_t>(i * columns),
                       values.begin() + static_cast<std::ptrdiff_t>((i + 1) * columns));
  }
  return out;
}

}  // namespace moerge::testing
