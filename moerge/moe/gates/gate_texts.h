#pragma once
// All texts of all experts as one pass sees them: their tokens one after the other, and whose they are.

#include <vector>

#include "moerge/moe/gates/gate.h"

namespace moerge {

struct GateTexts {
  struct Sequence {
    int64_t expert;
    bool negative;
    int64_t begin, end;  // tokens of the pass
  };
  std::vector<TokenSequence> sequences;
  std::vector<Sequence> of;  // one a sequence
  int64_t tokens = 0;

  /// The expert that each token is meant for: -1 in negative prompts and for shared experts.
  std::vector<int64_t> meant(const GateInput& input) const;
};

GateTexts gate_texts(const GateInput& input);

/// Bytes of what is kept for each token of a pass beside the encoder's own: its labels, weights and logits.
int64_t bytes_of_texts(const GateInput& input);

/// Counts where rows [experts, hidden] of a layer send the texts: `logits` [tokens, routed].
void count_routing(Forecast& forecast, const GateInput& input, int64_t layer, std::span<const float> logits,
                   std::span<const int64_t> meant);

/// A weight for each token of `meant`: every expert's tokens sum to 1 / experts, whatever their number; 0
/// where nobody is meant.
std::vector<float> balanced_weights(std::span<const int64_t> meant, int64_t experts);

/// How far the largest logit of a text's token lies above the mean of all experts', on average: with four
/// experts the softmax then gives about 0.85 to the first.
inline constexpr double kSharpness = 4;

/// The factor on a layer's rows after which a token's largest logit lies `sharpness` above the mean of all
/// experts', on average over the weighted tokens. `logits`: [tokens, experts].
double sharpening(std::span<const float> logits, std::span<const float> weights, double sharpness);

}  // namespace moerge
