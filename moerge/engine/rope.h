#pragma once
// Rotary position embedding reduced to numbers: whatever its kind, pair i of a head is rotated by the angle
// position * inverse[i].

#include <cstdint>
#include <vector>

#include "moerge/model/config.h"

namespace moerge {

struct RopeFrequencies {
  std::vector<float> inverse;     // [head_dim / 2], radians per position
  float attention_factor = 1.0f;  // multiplies cos and sin

  bool operator==(const RopeFrequencies&) const = default;
};

/// Frequencies for a sequence of `length` tokens as transformers' modeling_rope_utils computes them, for the
/// types default, linear, dynamic, llama3, yarn and longrope; only those of dynamic and longrope depend on
/// the length. Throws unsupported for other types, input where a number is missing or senseless.
RopeFrequencies rope_frequencies(const ModelConfig& config, int64_t length);

}  // namespace moerge
