#pragma once
// The FFN of a layer whose model is a mixture of experts itself. Internal to engine/.

#include <cstdint>
#include <span>
#include <vector>

#include "moerge/engine/graph.h"

namespace moerge {

/// The tokens that pass through an expert, in ascending order, and what its output for each is multiplied by.
struct RoutedTokens {
  std::vector<int64_t> tokens;
  std::vector<float> weights;
};

/// Splits tokens between experts: softmax over `logits` (finite, [tokens, config.experts]) in float32, and of
/// every token the config.experts_per_token largest shares, the lower number first between equal ones; scaled
/// to a sum of 1 when config.normalised, then multiplied by config.routed_scale. One entry an expert.
std::vector<RoutedTokens> route_tokens(std::span<const float> logits, const ModelConfig& config);

/// The weights outside the experts (shared ones included), to be read ahead.
std::span<const Role> mixture_layer_roles();
/// The weights of one expert.
std::span<const Role> expert_roles();

/// states += mixture(norm(states)) for all tokens, float32 [tokens, hidden]; one expert's weights at a time,
/// and only of experts that were chosen. Takes memory for the states once more and for the activations of
/// max_batch_tokens tokens. Returns false, with `states` in any condition, when router logits are not finite.
[[nodiscard]] bool add_mixture(const Workbench& bench, int64_t layer, int64_t max_batch_tokens,
                               std::span<float> states);

}  // namespace moerge
