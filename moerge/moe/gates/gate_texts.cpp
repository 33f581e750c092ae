#include "moerge/moe/gates/gate_texts.h"

#include <algorithm>
#include <numeric>

namespace moerge {

GateTexts gate_texts(const GateInput& input) {
  GateTexts out;
  for (size_t e = 0; e < input.experts.size(); e++)
    for (const auto* texts : {&input.experts[e].positive, &input.experts[e].negative})
      for (const TokenSequence& text : *texts) {
        const int64_t end = out.tokens + std::ssize(text);
        out.of.push_back({static_cast<int64_t>(e), texts == &input.experts[e].negative, out.tokens, end});
        out.sequences.push_back(text);
        out.tokens = end;
      }
  return out;
}

int64_t bytes_of_texts(const GateInput& input) {
  return gate_texts(input).tokens * (4 + 8 + 4 + 4 * input.routed);
}

std::vector<int64_t> GateTexts::meant(const GateInput& input) const {
  std::vector<int64_t> out;
  for (const Sequence& sequence : of)
    out.insert(out.end(), static_cast<size_t>(sequence.end - sequence.begin),
               sequence.negative || sequence.expert >= input.routed ? -1 : sequence.expert);
  return out;
}

void count_routing(Forecast& forecast, const GateInput& input, int64_t layer, std::span<const float> logits,
                   std::span<const int64_t> meant) {
  // Tokens that nobody is meant for are left out.
  const auto width = static_cast<size_t>(input.routed);
  std::vector<float> rows;
  std::vector<int64_t> labels;
  for (size_t token = 0; token < meant.size(); token++) {
    if (meant[token] < 0) continue;
    const auto row = logits.subspan(token * width, width);
    rows.insert(rows.end(), row.begin(), row.end());
    labels.push_back(meant[token]);
  }
  forecast.stats.add(layer, rows, labels, std::min(input.experts_per_token, input.routed));
}

std::vector<float> balanced_weights(std::span<const int64_t> meant, int64_t experts) {
  std::vector<int64_t> counts(static_cast<size_t>(experts));
  for (const int64_t expert : meant)
    if (expert >= 0) counts[static_cast<size_t>(expert)]++;
  std::vector<float> out;
  for (const int64_t expert : meant)
    out.push_back(expert < 0
                      ? 0.0f
                      : static_cast<float>(1.0 / (static_cast<double>(experts) *
                                                  static_cast<double>(counts[static_cast<size_t>(expert)]))));
  return out;
}

double sharpening(std::span<const float> logits, std::span<const float> weights, double sharpness) {
  const size_t width = logits.size() / weights.size();
  double sum = 0, total = 0;
  for (size_t token = 0; token < weights.size(); token++) {
    const auto row = logits.subspan(token * width, width);
    const double mean = std::accumulate(row.begin(), row.end(), 0.0) / static_cast<double>(width);
    sum += weights[token] * (std::ranges::max(row) - mean);
    total += weights[token];
  }
  return sum > 0 ? sharpness * total / sum : 1;
}

}  // namespace moerge
