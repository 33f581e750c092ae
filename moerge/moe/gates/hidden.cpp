// mergekit's default: an expert's row in layer l is the mean, over its prompts, of the base model's residual
// stream entering layer l, minus the same for its negative prompts, at unit length (Goddard, "Mixture of
// Experts for Clowns (at a Circus)"). hidden = hidden_last looks at each prompt's last token, hidden_avg at
// the mean over its tokens.

#include <algorithm>

#include "moerge/moe/gates/list.h"

namespace moerge {
namespace {

struct Range {  // tokens of one prompt in the encoder's output, and the weight of its vector in the expert's
                // row
  int64_t expert, begin, end;
  double weight;
};

GateTable from_states(const GateInput& input, bool average) {
  std::vector<TokenSequence> sequences;
  std::vector<Range> ranges;
  int64_t tokens = 0;
  for (size_t e = 0; e < input.experts.size(); e++)
    for (const auto* prompts : {&input.experts[e].positive, &input.experts[e].negative}) {
      const double sign = prompts == &input.experts[e].positive ? 1.0 : -1.0;
      for (const TokenSequence& prompt : *prompts) {
        const int64_t end = tokens + std::ssize(prompt);
        ranges.push_back({static_cast<int64_t>(e), average ? tokens : end - 1, end,
                          sign / static_cast<double>(prompts->size())});
        sequences.push_back(prompt);
        tokens = end;
      }
    }

  GateTable table(input.layers, std::ssize(input.experts), input.hidden);
  std::vector<double> sums(static_cast<size_t>(table.experts * input.hidden));
  const auto add_layer = [&](int64_t layer, std::span<const float> states) {
    std::ranges::fill(sums, 0.0);
    for (const Range& range : ranges) {
      double* sum = sums.data() + range.expert * input.hidden;
      const double weight = range.weight / static_cast<double>(range.end - range.begin);
      for (int64_t t = range.begin; t < range.end; t++) {
        const float* state = states.data() + t * input.hidden;
        for (int64_t i = 0; i < input.hidden; i++) sum[i] += weight * state[i];
      }
    }
    for (int64_t e = 0; e < table.experts; e++) {
      const auto row = table.row(layer, e);
      std::transform(sums.begin() + e * input.hidden, sums.begin() + (e + 1) * input.hidden, row.begin(),
                     [](double value) { return static_cast<float>(value); });
      normalise(row);
    }
  };
  input.encoder->encode(sequences, {.entering = add_layer});
  return table;
}

GateTable last_token(const GateInput& input) { return from_states(input, false); }
GateTable mean_token(const GateInput& input) { return from_states(input, true); }

}  // namespace

const GateMode kHidden = {"hidden", "hidden states of each prompt's last token (the default)",
                          GateNeeds::hidden_states, last_token};
const GateMode kHiddenLast = {"hidden_last", "another name of hidden", GateNeeds::hidden_states, last_token};
const GateMode kHiddenAvg = {"hidden_avg", "hidden states averaged over each prompt's tokens",
                             GateNeeds::hidden_states, mean_token};

}  // namespace moerge
