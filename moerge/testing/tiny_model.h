#pragma once
// Model folders small enough for unit tests, written without the code under test where that matters.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "moerge/testing/temp_dir.h"

namespace moerge::testing {

struct TinyTensor {
  std::string name;
  std::string dtype;  // safetensors spelling
  std::vector<int64_t> shape;
  std::string bytes;
};

/// A safetensors file, header and data.
inline std::string safetensors_bytes(const std::vector<TinyTensor>& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  std::string data;
  for (const TinyTensor& tensor : tensors) {
    std::string shape;
    for (const int64_t n : tensor.shape) shape += (shape.empty() ? "" : ",") + std::to_string(n);
    header += ",\"" + tensor.name + "\":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[" + shape +
              "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
              std::to_string(data.size() + tensor.bytes.size()) + "]}";
    data += tensor.bytes;
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; i++) length[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return length + header + data;
}

/// float32 values that differ from seed to seed.
inline std::string f32_bytes(int64_t count, int seed) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); i++)
    values[i] = std::sin(static_cast<float>(i) * 0.37f + static_cast<float>(seed) * 1.7f) * 0.2f;
  std::string bytes(values.size() * 4, '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

inline constexpr const char* kTinyConfig =
    R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 12,
 "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 16,
 "max_position_embeddings": 64, "rms_norm_eps": 1e-05, "torch_dtype": "float32", "hidden_act": "silu"})";

/// The tensors that kTinyConfig promises, float32.
inline std::vector<TinyTensor> tiny_tensors(int seed) {
  std::vector<TinyTensor> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (const int64_t n : shape) count *= n;
    tensors.push_back(
        {name, "F32", std::move(shape), f32_bytes(count, seed * 100 + static_cast<int>(tensors.size()))});
  };
  add("model.embed_tokens.weight", {16, 8});
  for (int layer = 0; layer < 2; layer++) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    add(prefix + "input_layernorm.weight", {8});
    add(prefix + "self_attn.q_proj.weight", {8, 8});
    add(prefix + "self_attn.k_proj.weight", {4, 8});
    add(prefix + "self_attn.v_proj.weight", {4, 8});
    add(prefix + "self_attn.o_proj.weight", {8, 8});
    add(prefix + "post_attention_layernorm.weight", {8});
    add(prefix + "mlp.gate_proj.weight", {12, 8});
    add(prefix + "mlp.up_proj.weight", {12, 8});
    add(prefix + "mlp.down_proj.weight", {8, 12});
  }
  add("model.norm.weight", {8});
  add("lm_head.weight", {16, 8});
  return tensors;
}

/// A tokenizer of 16 tokens: one letter each.
inline constexpr const char* kTinyTokenizer =
    R"({"version": "1.0", "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
 "normalized": false, "special": true}], "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
 "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}, "padding": null,
 "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
 "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": {"<s>": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5,
 "f": 6, "g": 7, "h": 8, "i": 9, "j": 10, "k": 11, "l": 12, "m": 13, "n": 14, "o": 15}, "merges": []}})";

/// A whole model folder DIR/NAME.
inline std::filesystem::path write_tiny_model(const TempDir& dir, const std::string& name, int seed) {
  dir.write(name + "/config.json", kTinyConfig);
  dir.write(name + "/model.safetensors", safetensors_bytes(tiny_tensors(seed)));
  dir.write(name + "/tokenizer.json", kTinyTokenizer);
  dir.write(name + "/tokenizer_config.json", R"({"bos_token": "<s>"})");
  return dir / name;
}

}  // namespace moerge::testing
