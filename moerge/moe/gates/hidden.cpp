// mergekit's default: an expert's row in layer l is the mean, over its prompts, of the base model's residual
// stream entering layer l, minus the same for its negative prompts, at unit length (Goddard, "Mixture of
// Experts for Clowns (at a Circus)"). hidden = hidden_last looks at each prompt's last token, hidden_avg at
// the mean over its tokens.

#include <algorithm>

#include "moerge/moe/gates/gate_texts.h"
#include "moerge/moe/gates/list.h"
#include "moerge/tensor/least_squares.h"

namespace moerge {
namespace {

Gates from_states(const GateInput& input, bool average) {
  const GateTexts texts = gate_texts(input);
  const std::vector<int64_t> meant = texts.meant(input);
  Gates gates = {GateTable(input.layers, std::ssize(input.experts), input.hidden)};
  GateTable& table = gates.table;
  std::vector<double> sums(static_cast<size_t>(table.experts * input.hidden));
  PassTaps taps;
  taps.entering = [&](int64_t layer, std::span<const float> states) {
    std::ranges::fill(sums, 0.0);
    for (const GateTexts::Sequence& text : texts.of) {
      const ExpertTokens& expert = input.experts[static_cast<size_t>(text.expert)];
      const double prompts =
          static_cast<double>(text.negative ? expert.negative.size() : expert.positive.size());
      const int64_t begin = average ? text.begin : text.end - 1;
      const double weight = (text.negative ? -1 : 1) / prompts / static_cast<double>(text.end - begin);
      double* sum = sums.data() + text.expert * input.hidden;
      for (int64_t t = begin; t < text.end; t++) {
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
  if (input.kept == 0 && input.routed > 1) {
    gates.forecast = Forecast{RoutingStats(input.layers, input.routed), false};
    taps.router = [&](const RouterView& view) {
      std::vector<float> logits(static_cast<size_t>(texts.tokens * input.routed));
      const auto rows = table.rows(view.layer).first(static_cast<size_t>(input.routed * input.hidden));
      multiply_rows(view.inputs, input.hidden, rows, logits, input.threads);
      count_routing(*gates.forecast, input, view.layer, logits, meant);
    };
  }
  input.encoder->encode(texts.sequences, taps);
  return gates;
}

Gates last_token(const GateInput& input) { return from_states(input, false); }
Gates mean_token(const GateInput& input) { return from_states(input, true); }

}  // namespace

const GateMode kHidden = {"hidden", "hidden states of each prompt's last token (the default)",
                          GateNeeds::base_pass, last_token, bytes_of_texts};
const GateMode kHiddenLast = {"hidden_last", "another name of hidden", GateNeeds::base_pass, last_token,
                              bytes_of_texts};
const GateMode kHiddenAvg = {"hidden_avg", "hidden states averaged over each prompt's tokens",
                             GateNeeds::base_pass, mean_token, bytes_of_texts};

}  // namespace moerge
