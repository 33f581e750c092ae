#pragma once
// What a GGUF must hold for llama.cpp to load it, from config.json alone: to be compared with a checkpoint
// before any work is done.

#include <cstdint>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/export/family.h"
#include "moerge/tensor/tensor.h"

namespace moerge {

/// Sizes of the model, class defaults filled in.
struct ExportDimensions {
  int64_t layers = 0, dense_layers = 0;  // the first of them, without experts
  int64_t vocab = 0, hidden = 0, ffn = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t experts = 0, expert_ffn = 0, shared_ffn = 0;  // 0 in a dense family
  bool tied_embeddings = false;
};

/// Throws input for sizes that are missing, out of bounds (1 to 2^30; 100000 layers) or do not divide, and
/// unsupported for models that llama.cpp has no place for, such as dense layers between sparse ones.
ExportDimensions export_dimensions(const ExportFamily& family, const Json& config, const std::string& where);

struct ExpectedTensor {
  std::string name;  // in the GGUF
  Shape shape;       // in PyTorch's order: [experts, ffn, hidden]
  bool optional = false;
};

/// Every tensor of a complete model, and those that may be there too, the biases and the output of tied
/// embeddings. A tensor of another name makes llama.cpp refuse the file. (rope_freqs.weight is not in the
/// list: no checkpoint has it, see rope_frequency_factors.)
std::vector<ExpectedTensor> expected_tensors(const ExportFamily& family, const ExportDimensions& dimensions);

/// Throws unsupported for a model that llama.cpp would not load. One sentence for each setting that it does
/// not follow, so that the GGUF will compute something else than transformers (not for a sliding window,
/// which it ignores in all of these families), and for each that makes llama.cpp refuse the GGUF although its
/// converter writes it.
std::vector<std::string> export_warnings(const ExportFamily& family, const Json& config,
                                         const std::string& where);

}  // namespace moerge
