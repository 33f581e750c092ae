#pragma once
// Checkpoints of 8-bit weights with scales beside them, read as what they stand for: value * scale. Formats:
// transformers, quantizers/ ("fp8", "fbgemm_fp8"); compressed-tensors, "float-quantized", "int-quantized" and
// "naive-quantized".

#include <string>

#include "moerge/formats/checkpoint.h"
#include "moerge/model/config.h"

namespace moerge {

/// "quantization_config" of a config.json, or the older "compression_config"; null when there is neither.
const Json* find_quantization(const Json& config);

/// Throws unsupported for a method or format that dequantize() does not read, with what to use instead.
void check_quantization(const Json& quantization, const std::string& where);

/// Replaces each 8-bit weight by its values in the model's dtype (bfloat16 where config.json states none) and
/// drops scales; `config` then says nothing of quantisation. Does nothing to a model that is not quantised.
void dequantize_weights(ModelConfig& config, Checkpoint& checkpoint);

}  // namespace moerge
