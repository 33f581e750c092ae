#pragma once
// Which tokens of a mixture go to which expert, from the logits of its router.

#include <cstdint>
#include <span>
#include <vector>

#include "moerge/model/config.h"

namespace moerge {

/// The tokens that pass through an expert, in ascending order, and what its output for each is multiplied by.
struct RoutedTokens {
  std::vector<int64_t> tokens;
  std::vector<float> weights;
};

/// Splits tokens between experts: softmax over `logits` (finite or minus infinity, [tokens, config.experts])
/// in float32, and of every token the config.experts_per_token largest shares, the lower number first between
/// equal ones; scaled to a sum of 1 when config.normalised, then multiplied by config.routed_scale. One entry
/// an expert; shares of 0 are left out.
std::vector<RoutedTokens> route_tokens(std::span<const float> logits, const ModelConfig& config);

}  // namespace moerge
