#pragma once
// Values that the YAML files of mixtures and of dense merges have in common.

#include <optional>
#include <string>
#include <string_view>

#include "moerge/base/yaml.h"
#include "moerge/tensor/dtype.h"

namespace moerge {

/// A model: a text, or mergekit's map {model: ..., lora: ...}, in which either is a text or {path: ...,
/// revision: ...}; as "path@revision+lora". Empty when the key is absent or a problem was reported.
std::optional<std::string> read_model_reference(const YamlNode& map, std::string_view key,
                                                YamlProblems& problems);

/// A type that tensors of an output can have: bfloat16, float16 or float32.
std::optional<DType> read_dtype(const YamlNode& map, std::string_view key, YamlProblems& problems);

}  // namespace moerge
