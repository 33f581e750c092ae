// An expert's row in layer l is the mean of what the router of layer l will read, over all tokens of the
// expert's texts in a pass of the base model: after the layer's attention and the norm before its FFN. Minus
// the same for its negative prompts; unit length; minus the mean over the experts, which changes no softmax
// and keeps bfloat16's few digits for what tells the experts apart. One factor on the rows of a layer then
// sets how sharply they decide.
//
// mergekit's "hidden" takes the residual stream before the attention instead, which no router ever reads;
// docs/routing.md has the measurements.

#include <algorithm>

#include "moerge/moe/gates/gate_texts.h"
#include "moerge/moe/gates/list.h"
#include "moerge/tensor/least_squares.h"

namespace moerge {
namespace {

void add_means(const GateTexts& texts, std::span<const float> inputs, GateTable& table, int64_t layer) {
  const auto hidden = static_cast<size_t>(table.hidden);
  std::vector<double> sums(static_cast<size_t>(table.experts) * hidden);
  for (const bool negative : {false, true}) {
    std::ranges::fill(sums, 0.0);
    std::vector<int64_t> counts(static_cast<size_t>(table.experts));
    for (const GateTexts::Sequence& sequence : texts.of) {
      if (sequence.negative != negative) continue;
      double* sum = sums.data() + static_cast<size_t>(sequence.expert) * hidden;
      for (int64_t t = sequence.begin; t < sequence.end; t++) {
        const float* x = inputs.data() + static_cast<size_t>(t) * hidden;
        for (size_t i = 0; i < hidden; i++) sum[i] += x[i];
      }
      counts[static_cast<size_t>(sequence.expert)] += sequence.end - sequence.begin;
    }
    for (int64_t e = 0; e < table.experts; e++) {
      const auto count = static_cast<double>(counts[static_cast<size_t>(e)]);
      if (count == 0) continue;
      const std::span<float> row = table.row(layer, e);
      const double* sum = sums.data() + static_cast<size_t>(e) * hidden;
      for (size_t i = 0; i < hidden; i++) row[i] += static_cast<float>((negative ? -sum[i] : sum[i]) / count);
    }
  }
  for (int64_t e = 0; e < table.experts; e++) normalise(table.row(layer, e));
}

// The shared experts' rows are set against the same mean.
void centre(GateTable& table, int64_t layer, int64_t routed) {
  for (size_t i = 0; i < static_cast<size_t>(table.hidden); i++) {
    double mean = 0;
    for (int64_t e = 0; e < routed; e++) mean += table.row(layer, e)[i] / static_cast<double>(routed);
    for (int64_t e = 0; e < table.experts; e++) table.row(layer, e)[i] -= static_cast<float>(mean);
  }
}

Gates make(const GateInput& input) {
  const GateTexts texts = gate_texts(input);
  const std::vector<int64_t> meant = texts.meant(input);
  const std::vector<float> weights = balanced_weights(meant, input.routed);
  // Next to rows that stay as they are, new ones stay on their scale (grow.h); a single one has no others.
  const bool compete = input.kept == 0 && input.routed > 1;
  Gates gates = {GateTable(input.layers, std::ssize(input.experts), input.hidden)};
  if (compete) gates.forecast = Forecast{RoutingStats(input.layers, input.routed), false};
  GateTable& table = gates.table;
  std::vector<float> logits(static_cast<size_t>(texts.tokens * input.routed));
  const auto add_layer = [&](const RouterView& view) {
    add_means(texts, view.inputs, table, view.layer);
    if (!compete) return;
    centre(table, view.layer, input.routed);
    const std::span<float> rows = table.rows(view.layer);
    const std::span<float> routed_rows = rows.first(static_cast<size_t>(input.routed * input.hidden));
    multiply_rows(view.inputs, input.hidden, routed_rows, logits, input.threads);
    const auto factor = static_cast<float>(sharpening(logits, weights, kSharpness));
    for (float& value : rows) value *= factor;
    for (float& logit : logits) logit *= factor;
    count_routing(*gates.forecast, input, view.layer, logits, meant);
  };
  input.encoder->encode(texts.sequences, {.router = add_layer});
  return gates;
}

}  // namespace

const GateMode kRouterInput = {"router_input",
                               "means of what the routers will read, over the prompts' or the data's tokens",
                               GateNeeds::base_pass, make, bytes_of_texts};

}  // namespace moerge
