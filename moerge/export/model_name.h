#pragma once
// What the name of a model says about it: "mistralai/Mixtral-8x7B-Instruct-v0.1" is basename "Mixtral", size
// "8x7B", finetune "Instruct", version "v0.1" of organization "mistralai". Source: llama.cpp,
// gguf-py/gguf/metadata.py (get_model_id_components, id_to_title), utility.py (size_label).

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "moerge/export/model_description.h"

namespace moerge {

struct ModelName {
  std::string name;  // without the organization
  std::optional<std::string> organization, basename, finetune, version, size_label;
};

/// Takes apart "ORGANIZATION/NAME" or "NAME". `total_parameters` tells a size from the length of a context
/// ("7B" and "128k"); 0: not known. Only ASCII letters and digits count as such.
ModelName read_model_name(std::string_view id, int64_t total_parameters);

/// "mistral-7b-instruct" -> "Mistral 7b Instruct": words that have capitals, numbers and versions stay.
std::string title_of(std::string_view name);

/// "8x7B", "135M": the parameters that one expert alone would have, or all, with two significant digits.
std::string size_label(const ParameterCounts& counts);

}  // namespace moerge
