#pragma once
// What llama.cpp takes to run a model: its own code lays out its buffers, over a file that has the model's
// metadata and shapes and no data; nothing of that size is allocated.

#include <cstdint>
#include <span>
#include <vector>

#include "moerge/formats/gguf.h"

namespace moerge {

/// Bytes beside the weights.
struct LlamaMemory {
  int64_t cache = 0;    // keys and values of the whole context, float16
  int64_t compute = 0;  // activations of 512 tokens at a time (llama.cpp's own setting) and the logits
};

/// One for each context length in tokens, on the CPU and for one sequence. Does not depend on the weights'
/// types. `metadata` and `tensors` as in decide_types(), vocabulary included. Throws input, with llama.cpp's
/// own words, when it does not accept the model.
std::vector<LlamaMemory> llama_memory(const GgufMetadata& metadata, std::span<const TensorSpec> tensors,
                                      std::span<const int64_t> contexts);

}  // namespace moerge
