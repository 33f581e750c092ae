// Each layer's rows are fitted to what its router will read when all layers route rightly: every expert's
// texts pass through the base's attention and that expert's FFNs. All texts go through a layer together, so
// no sums outlive it.

#include <algorithm>
#include <chrono>
#include <cmath>

#include "moerge/base/error.h"
#include "moerge/moe/gates/gate_texts.h"
#include "moerge/moe/gates/list.h"
#include "moerge/moe/gates/ridge_fit.h"
#include "moerge/tensor/least_squares.h"

namespace moerge {
namespace {

// Of so many sequences of an expert the last is kept from the fit, to see how well the others foretell it.
constexpr int64_t kHoldOut = 8;

struct Split {
  std::vector<int64_t> fitted, held_out;  // the expert meant for each token, -1 for tokens of the other part
};

Split split(const GateTexts& texts, const GateInput& input) {
  Split out;
  std::vector<int64_t> seen(input.experts.size());
  for (const GateTexts::Sequence& sequence : texts.of) {
    const bool counts = !sequence.negative && sequence.expert < input.routed;
    const bool held = counts && ++seen[static_cast<size_t>(sequence.expert)] % kHoldOut == 0;
    const auto tokens = static_cast<size_t>(sequence.end - sequence.begin);
    out.fitted.insert(out.fitted.end(), tokens, counts && !held ? sequence.expert : -1);
    out.held_out.insert(out.held_out.end(), tokens, held ? sequence.expert : -1);
  }
  const bool all_held = std::ranges::all_of(std::span(seen).first(static_cast<size_t>(input.routed)),
                                            [](int64_t sequences) { return sequences >= kHoldOut; });
  if (all_held) return out;
  // Too few to spare any.
  out.fitted = texts.meant(input);
  out.held_out.clear();
  return out;
}

// Every token to the expert that it is meant for; what is meant for none, as the rows decide.
void force(std::span<float> logits, std::span<const int64_t> meant, int64_t experts) {
  for (size_t token = 0; token < meant.size(); token++) {
    if (meant[token] < 0) continue;
    const auto row = logits.subspan(token * static_cast<size_t>(experts), static_cast<size_t>(experts));
    std::ranges::fill(row, -INFINITY);
    row[static_cast<size_t>(meant[token])] = 0;
  }
}

// A shared expert's row: the mean of its own inputs against the experts' means, each at unit length.
void add_shared_rows(const GateTexts& texts, const GateInput& input, const RouterView& view,
                     GateTable& table) {
  if (table.experts == input.routed) return;
  const auto hidden = static_cast<size_t>(input.hidden);
  std::vector<float> means(static_cast<size_t>(table.experts) * hidden);
  for (const GateTexts::Sequence& sequence : texts.of) {
    if (sequence.negative) continue;
    float* mean = means.data() + static_cast<size_t>(sequence.expert) * hidden;
    for (int64_t t = sequence.begin; t < sequence.end; t++)
      for (size_t i = 0; i < hidden; i++) mean[i] += view.inputs[static_cast<size_t>(t) * hidden + i];
  }
  for (int64_t e = 0; e < table.experts; e++)
    normalise(std::span(means).subspan(static_cast<size_t>(e) * hidden, hidden));
  for (int64_t e = input.routed; e < table.experts; e++) {
    const std::span<float> row = table.row(view.layer, e);
    for (size_t i = 0; i < hidden; i++) {
      row[i] = means[static_cast<size_t>(e) * hidden + i];
      for (int64_t other = 0; other < input.routed; other++)
        row[i] -= means[static_cast<size_t>(other) * hidden + i] / static_cast<float>(input.routed);
    }
  }
}

bool all_finite(std::span<const float> values) {
  return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

// Every expert's texts pass through its own FFNs, so what is damaged can be named. `states` enter a layer.
void check_states(const GateTexts& texts, const GateInput& input, int64_t layer,
                  std::span<const float> states) {
  if (all_finite(states)) return;
  if (layer == 0)
    fail(ErrorKind::input, "model \"{}\": the embeddings of these texts hold infinite values or NaN",
         input.base);
  std::vector<bool> damaged(input.experts.size());
  for (const GateTexts::Sequence& sequence : texts.of) {
    const auto part = states.subspan(static_cast<size_t>(sequence.begin * input.hidden),
                                     static_cast<size_t>((sequence.end - sequence.begin) * input.hidden));
    if (!sequence.negative && !all_finite(part)) damaged[static_cast<size_t>(sequence.expert)] = true;
  }
  // Several: perhaps a shared expert, which all texts pass through.
  const auto end = damaged.begin() + input.routed, first = std::find(damaged.begin(), end, true);
  if (input.routed > 1 && std::count(first, end, true) == 1)
    fail(ErrorKind::input,
         "model \"{}\": what the FFN of layer {} computes holds infinite values or NaN: its weights are "
         "damaged, or its numbers grow too large",
         input.experts[static_cast<size_t>(first - damaged.begin())].model, layer - 1);
  fail(ErrorKind::input,
       "what the FFNs of layer {} compute holds infinite values or NaN: the weights of one of the models are "
       "damaged, or its numbers grow too large",
       layer - 1);
}

void check_inputs(const GateInput& input, const RouterView& view) {
  if (!all_finite(view.inputs))
    fail(
        ErrorKind::input,
        "model \"{}\": what the attention of layer {} computes holds infinite values or NaN: its weights are "
        "damaged, or its numbers grow too large",
        input.base, view.layer);
}

// The sums and their factored copy in float64; labels of both parts, gradients and shares of every token.
int64_t extra_bytes(const GateInput& input) {
  return 2 * 8 * input.hidden * input.hidden + 3 * bytes_of_texts(input);
}

Gates make(const GateInput& input) {
  const GateTexts texts = gate_texts(input);
  const std::vector<int64_t> meant = texts.meant(input);
  const Split parts = split(texts, input);
  const bool held_out = !parts.held_out.empty();
  Gates gates = {GateTable(input.layers, std::ssize(input.experts), input.hidden),
                 Forecast{RoutingStats(input.layers, input.routed), held_out}};
  const auto check_layer = [&](int64_t layer, std::span<const float> states) {
    check_states(texts, input, layer, states);
  };
  const auto fit_layer = [&](const RouterView& view) {
    const auto start = std::chrono::steady_clock::now();
    check_inputs(input, view);
    const std::vector<float> rows =
        fit_ridge({view.inputs, parts.fitted, input.routed, input.hidden}, input.threads);
    std::ranges::copy(rows, gates.table.rows(view.layer).begin());
    multiply_rows(view.inputs, input.hidden, rows, view.logits, input.threads);
    count_routing(*gates.forecast, input, view.layer, view.logits, held_out ? parts.held_out : meant);
    force(view.logits, meant, input.routed);
    add_shared_rows(texts, input, view, gates.table);
    if (!view.shared_shares.empty()) {
      multiply_rows(view.inputs, input.hidden, gates.table.row(view.layer, input.routed), view.shared_shares,
                    input.threads);
      for (float& share : view.shared_shares) share = 1 / (1 + std::exp(-share));
    }
    gates.fit_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  input.encoder->encode(texts.sequences,
                        {.entering = check_layer, .router = fit_layer, .replaces_routers = true});
  return gates;
}

}  // namespace

const GateMode kRidge = {"ridge", "fitted to the data by least squares, where the routers will read",
                         GateNeeds::mixture_pass, make, extra_bytes};

}  // namespace moerge
