#pragma once
// Rotary position embedding reduced to numbers: whatever its kind, pair i of a head is rotated by the angle
// position * inverse[i].

#include <cstdint>
#include <optional>
#include <vector>

#include "moerge/model/config.h"

namespace moerge {

struct RopeFrequencies {
  std::vector<float> inverse;         // [head_dim / 2], radians per position
  float attention_factor = 1.0f;      // multiplies cos and sin
  std::optional<int64_t> max_length;  // longer sequences would need other frequencies
};

/// Frequencies as transformers' modeling_rope_utils computes them, for the types default, linear, dynamic,
/// llama3 and yarn. Throws unsupported for other types, input where a number is missing or senseless.
RopeFrequencies rope_frequencies(const ModelConfig& config);

}  // namespace moerge
