#pragma once
// Inference as the gate modes see it: what passes through a model, layer by layer. Implemented in engine/, so
// that routers can be planned and tested without it.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace moerge {

using TokenSequence = std::vector<int32_t>;

/// What the router of one layer reads and decides, for all tokens of all sequences, one sequence after the
/// other. In a dense model: what a router in its place would read.
struct RouterView {
  int64_t layer;
  std::span<const float> inputs;  // [tokens, hidden]: after the layer's attention and the norm before its FFN
  std::span<float> logits;        // [tokens, experts]; empty in a dense model
  std::span<float> shared_shares;  // [tokens]: what the shared expert's output is multiplied by; empty where
                                   // no router weighs it
};

/// What a pass shows, each where it is not null, in the order of the layers.
struct PassTaps {
  /// The residual stream that enters a layer, before its attention norm: float32 [tokens, hidden]. Infinite
  /// values and NaN are shown as well; then encode() throws.
  std::function<void(int64_t layer, std::span<const float> states)> entering = nullptr;
  /// Before tokens are sent to experts; what it writes into logits and shared_shares decides. A logit of
  /// minus infinity keeps a token away from an expert.
  std::function<void(const RouterView&)> router = nullptr;
  /// The routers of the model are not read: logits and shared_shares come as zeros, `router` fills them.
  bool replaces_routers = false;
  /// The residual stream that leaves the last layer.
  std::function<void(std::span<const float> states)> leaving = nullptr;
};

class PromptEncoder {
 public:
  virtual ~PromptEncoder() = default;

  /// Runs the model over the sequences (each on its own, causal, positions from 0), as far as the taps look.
  /// No sequence may be empty.
  virtual void encode(std::span<const TokenSequence> sequences, const PassTaps& taps) = 0;
};

}  // namespace moerge
