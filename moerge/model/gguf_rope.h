#pragma once
// Rope scaling from GGUF metadata.

#include <optional>
#include <span>

#include "moerge/base/json.h"

namespace moerge {

/// The "rope_scaling" object of type llama3 whose frequency divisors (float32 [head_dim / 2], what llama.cpp
/// stores as rope_freqs.weight) these are; null where they change nothing, empty when there is none. GGUF
/// does not keep the four numbers, only what they come to: they are solved for and accepted if they reproduce
/// every divisor. (Original context and the two frequency factors have a common scale, which is fixed by
/// low_freq_factor 1, the value of every published model.)
std::optional<Json> llama3_scaling(std::span<const float> divisors, double theta);

}  // namespace moerge
