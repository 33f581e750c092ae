#pragma once
// What llama.cpp takes to run a model: its own code lays out its buffers, over a file that has the model's
// metadata and shapes and no data; nothing of that size is allocated.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "moerge/formats/gguf.h"

namespace moerge {

/// Bytes beside the weights.
struct LlamaMemory {
  int64_t cache = 0;    // keys and values of the whole context, float16
  int64_t compute = 0;  // activations of 512 tokens at a time (llama.cpp's own setting) and the logits
};

/// How a context is used. 0: llama.cpp's default.
struct LlamaUse {
  int sequences = 1;
  bool unified = false;  // one pool of keys and values for all sequences
  int64_t outputs = 0;   // tokens of a batch whose logits are asked for; 0: all
  int64_t batch = 0, micro_batch = 0;
  int key_type = -1, value_type = -1;  // ggml_type of keys and values; -1: float16
  int flash_attention = -1;            // llama_flash_attn_type
};

/// A model without its weights, to be asked for several contexts. As llama_memory().
class LlamaMeter {
 public:
  LlamaMeter(const GgufMetadata& metadata, std::span<const TensorSpec> tensors);
  LlamaMeter(const LlamaMeter&) = delete;
  LlamaMeter& operator=(const LlamaMeter&) = delete;
  ~LlamaMeter();

  LlamaMemory at(int64_t context, const LlamaUse& use);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// One for each context length in tokens, on the CPU and for one sequence. Does not depend on the weights'
/// types. `metadata` and `tensors` as in decide_types(), vocabulary included. Throws input, with llama.cpp's
/// own words, when it does not accept the model.
std::vector<LlamaMemory> llama_memory(const GgufMetadata& metadata, std::span<const TensorSpec> tensors,
                                      std::span<const int64_t> contexts);

}  // namespace moerge
