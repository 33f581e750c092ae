#pragma once
// The configuration classes of transformers, as far as they decide what a GGUF's metadata says: llama.cpp's
// converter reads config.json through AutoConfig, so class defaults stand for absent keys, older spellings
// become one, and a file that the class refuses is used as it is, without defaults.
// Source: transformers 5.23, models/*/configuration_*.py, configuration_utils.py, modeling_rope_utils.py.

#include <span>
#include <string>
#include <string_view>

#include "moerge/base/json.h"

namespace moerge {

/// A declared member. The class refuses a file whose value has another type (1 is no float, null is a type of
/// its own).
struct ConfigField {
  std::string_view key;
  unsigned types;             // of ConfigType, or-ed
  std::string_view fallback;  // as JSON; empty: nothing here depends on it
};

enum ConfigType : unsigned {
  kInteger = 1,
  kFloat = 2,
  kFlag = 4,
  kText = 8,
  kNothing = 16,  // null
  kIntegers = 32,
  kTexts = 64,
};

struct ConfigClass {
  std::string_view model_type;
  double rope_theta;
  std::span<const ConfigField> fields;
  bool derives_head_dim = false;  // absent: hidden_size / num_attention_heads
  bool divides_evenly = false;    // refuses a hidden_size that is no multiple of num_attention_heads
  bool null_kv_is_heads = false;  // num_key_value_heads null: num_attention_heads
  /// "num_experts" is another name of "num_local_experts", and this the name it is kept under.
  bool renames_experts = false;
  bool has_layer_types = false;  // layers may have rope settings of their own
};

extern const ConfigClass kLlamaConfig, kMistralConfig, kMixtralConfig, kQwen2Config, kQwen3Config,
    kQwen2MoeConfig, kQwen3MoeConfig;

/// What AutoConfig makes of a file (an object) of this class: the members of the file and the class defaults,
/// with "rope_parameters" in the newest spelling instead of "rope_theta" and "rope_scaling". When the class
/// refuses the file, `values` is the file and `refusal` says why.
struct ReadConfig {
  Json values;
  std::string refusal;
};
ReadConfig read_as_class(const ConfigClass& config_class, const Json& file);

/// Whether Python takes a value for false: null, false, 0 and what is empty.
bool is_false(const Json& value);

}  // namespace moerge
