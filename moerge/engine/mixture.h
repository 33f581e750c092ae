#pragma once
// The FFN of a layer whose model is a mixture of experts itself. Internal to engine/.

#include <cstdint>
#include <span>

#include "moerge/engine/graph.h"

namespace moerge {

/// The weights outside the experts (shared ones included), to be read ahead.
std::span<const Role> mixture_layer_roles();
/// The weights of one expert.
std::span<const Role> expert_roles();

struct MixturePass {
  int64_t layer, max_batch_tokens;
  const PassTaps& taps;
  bool only_router;  // stops after the tap: nobody looks at the states any more
};

/// states += mixture(norm(states)) for all tokens, float32 [tokens, hidden]; one expert's weights at a time,
/// and only of experts that were chosen. Takes memory for the states once more and for the activations of
/// max_batch_tokens tokens. Returns false, with `states` in any condition, when router logits are not finite
/// (minus infinity is allowed where the tap replaces the routers, but not for all experts).
[[nodiscard]] bool add_mixture(const Workbench& bench, const MixturePass& pass, std::span<float> states);

}  // namespace moerge
