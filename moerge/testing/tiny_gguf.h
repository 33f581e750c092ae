#pragma once
// GGUF files small enough for unit tests. The containers are written by layout_gguf(), which gguf_test.cpp
// holds against what gguf-py writes; names and the order of rows are spelt out here once more.

#include <string>
#include <vector>

#include "moerge/formats/gguf.h"
#include "moerge/testing/tiny_model.h"

namespace moerge::testing {

struct TinyGgufTensor {
  TensorSpec spec;
  std::string bytes;
};

inline std::string gguf_bytes(const GgufMetadata& metadata, const std::vector<TinyGgufTensor>& tensors) {
  std::vector<TensorSpec> specs;
  for (const TinyGgufTensor& tensor : tensors) specs.push_back(tensor.spec);
  const GgufLayout layout = layout_gguf(metadata, specs);
  std::string file = layout.header;
  file.resize(static_cast<size_t>(layout.file_size));
  for (size_t i = 0; i < tensors.size(); i++)
    file.replace(static_cast<size_t>(layout.offsets[i]), tensors[i].bytes.size(), tensors[i].bytes);
  return file;
}

/// The rows of q or k as llama.cpp's converter reorders them: every head's halves, taken in turns.
inline std::string rotary_rows(const std::string& bytes, size_t rows, size_t heads) {
  const size_t row = bytes.size() / rows, head = rows / heads, half = head / 2;
  std::string out;
  for (size_t h = 0; h < heads; h++)
    for (size_t j = 0; j < half; j++)
      for (size_t i = 0; i < 2; i++) out += bytes.substr((h * head + i * half + j) * row, row);
  return out;
}

/// tiny_tensors(seed) as they stand in a GGUF file.
inline std::vector<TinyGgufTensor> tiny_gguf_tensors(int seed) {
  const std::vector<std::pair<std::string, std::string>> names = {{"model.embed_tokens", "token_embd"},
                                                                  {"model.norm", "output_norm"},
                                                                  {"lm_head", "output"},
                                                                  {"model.layers.", "blk."},
                                                                  {"input_layernorm", "attn_norm"},
                                                                  {"self_attn.q_proj", "attn_q"},
                                                                  {"self_attn.k_proj", "attn_k"},
                                                                  {"self_attn.v_proj", "attn_v"},
                                                                  {"self_attn.o_proj", "attn_output"},
                                                                  {"post_attention_layernorm", "ffn_norm"},
                                                                  {"mlp.gate_proj", "ffn_gate"},
                                                                  {"mlp.up_proj", "ffn_up"},
                                                                  {"mlp.down_proj", "ffn_down"}};
  std::vector<TinyGgufTensor> out;
  for (TinyTensor& tensor : tiny_tensors(seed)) {
    std::string name = tensor.name;
    for (const auto& [from, to] : names)
      if (const size_t at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
    if (name.find("attn_q") != std::string::npos) tensor.bytes = rotary_rows(tensor.bytes, 8, 2);
    if (name.find("attn_k") != std::string::npos) tensor.bytes = rotary_rows(tensor.bytes, 4, 1);
    out.push_back({{name, DType::f32, tensor.shape}, tensor.bytes});
  }
  return out;
}

/// What kTinyConfig says, with kTinyTokenizer's letters as a vocabulary.
inline GgufMetadata tiny_gguf_metadata() {
  GgufMetadata m;
  m.set("general.architecture", std::string("llama"));
  m.set("general.type", std::string("model"));
  m.set("llama.block_count", uint32_t{2});
  m.set("llama.context_length", uint32_t{64});
  m.set("llama.embedding_length", uint32_t{8});
  m.set("llama.feed_forward_length", uint32_t{12});
  m.set("llama.attention.head_count", uint32_t{2});
  m.set("llama.attention.head_count_kv", uint32_t{1});
  m.set("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  m.set("llama.rope.freq_base", 10000.0f);
  m.set("llama.rope.dimension_count", uint32_t{4});
  m.set("llama.vocab_size", uint32_t{16});
  m.set("tokenizer.ggml.model", std::string("gpt2"));
  m.set("tokenizer.ggml.pre", std::string("gpt-2"));
  std::vector<std::string> tokens = {"<s>"};
  for (char letter = 'a'; letter <= 'o'; letter++) tokens.emplace_back(1, letter);
  std::vector<int32_t> types(16, 1);
  types[0] = 3;
  m.set("tokenizer.ggml.tokens", tokens);
  m.set("tokenizer.ggml.token_type", types);
  m.set("tokenizer.ggml.merges", std::vector<std::string>{});
  m.set("tokenizer.ggml.bos_token_id", uint32_t{0});
  return m;
}

}  // namespace moerge::testing
