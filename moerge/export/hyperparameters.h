#pragma once
// The "{arch}.*" keys of a GGUF: what llama.cpp needs to know to run the model, as its own converter derives
// it from config.json. Source: llama.cpp, conversion/base.py (set_gguf_parameters), llama.py, qwen.py,
// deepseek.py.

#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/export/family.h"
#include "moerge/formats/gguf.h"

namespace moerge {

/// `config` is a config.json, `where` its name in messages. Throws input for values that are missing, of the
/// wrong type or out of bounds, unsupported for a router function that llama.cpp does not have.
void add_hyperparameters(GgufMetadata& metadata, const ExportFamily& family, const Json& config,
                         const std::string& where);

/// The values of rope_freqs.weight, one for each pair of a head's elements, by which Llama 3's rope settings
/// divide its frequency; empty when the GGUF has no such tensor. Computed in float32 step by step as PyTorch
/// does it for the converter, except that the powers of rope_theta are correctly rounded (PyTorch's differ in
/// the last place for one in seventy, and from one kind of CPU to another).
std::vector<float> rope_frequency_factors(const ExportFamily& family, const Json& config,
                                          const std::string& where);

}  // namespace moerge
