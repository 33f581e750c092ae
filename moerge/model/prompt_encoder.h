#pragma once
// Inference as the gate modes see it: hidden states of token sequences, layer by layer. Implemented in
// engine/, so that routers can be planned and tested without it.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace moerge {

using TokenSequence = std::vector<int32_t>;

class PromptEncoder {
 public:
  virtual ~PromptEncoder() = default;

  /// Receives the residual stream that enters layer `layer` (before its attention norm) for all tokens of all
  /// sequences: float32 [tokens, hidden], sequences one after the other in the order given. Layers come in
  /// order.
  using OnLayer = std::function<void(int64_t layer, std::span<const float> states)>;

  /// Runs the model over the sequences (each on its own, causal, positions from 0). No sequence may be empty.
  virtual void encode(std::span<const TokenSequence> sequences, const OnLayer& on_layer) = 0;
};

}  // namespace moerge
