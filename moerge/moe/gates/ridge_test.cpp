#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "moerge/base/error.h"
#include "moerge/moe/gates/gate.h"
#include "moerge/tensor/least_squares.h"

namespace moerge {
namespace {

constexpr int64_t kHidden = 4;

// What its routers read of a token in layer l: {token, position, l + 1, 1} / 10. Keeps what the tap decided.
class FakeMixture final : public PromptEncoder {
 public:
  FakeMixture(int64_t layers, int64_t experts, bool shared)
      : layers_(layers), experts_(experts), shared_(shared) {}

  void encode(std::span<const TokenSequence> sequences, const PassTaps& taps) override {
    EXPECT_TRUE(taps.replaces_routers);
    sequences_.assign(sequences.begin(), sequences.end());
    for (int64_t layer = 0; layer < layers_; layer++) {
      const std::vector<float> x = inputs(layer);
      if (taps.entering) taps.entering(layer, x);
      std::vector<float> logits(x.size() / kHidden * static_cast<size_t>(experts_)),
          shares(shared_ ? x.size() / kHidden : 0);
      taps.router({layer, x, logits, shares});
      logits_.push_back(std::move(logits));
      shares_.push_back(std::move(shares));
    }
  }

  std::vector<float> inputs(int64_t layer) const {
    std::vector<float> out;
    for (const TokenSequence& sequence : sequences_)
      for (size_t i = 0; i < sequence.size(); i++)
        for (const float value :
             {static_cast<float>(sequence[i]), static_cast<float>(i), static_cast<float>(layer + 1), 10.0f})
          out.push_back(value / 10);
    return out;
  }
  const std::vector<float>& logits(int64_t layer) const { return logits_[static_cast<size_t>(layer)]; }
  const std::vector<float>& shares(int64_t layer) const { return shares_[static_cast<size_t>(layer)]; }

 private:
  int64_t layers_, experts_;
  bool shared_;
  std::vector<TokenSequence> sequences_;
  std::vector<std::vector<float>> logits_, shares_;
};

// `count` sequences of ten tokens from `first` on.
std::vector<TokenSequence> texts(int32_t first, int count) {
  std::vector<TokenSequence> out;
  for (int i = 0; i < count; i++) {
    TokenSequence sequence;
    for (int32_t token = 0; token < 10; token++) sequence.push_back(first + (token * 7 + i * 3) % 11);
    out.push_back(std::move(sequence));
  }
  return out;
}

GateInput input_of(std::vector<ExpertTokens> experts, int64_t routed, PromptEncoder& encoder) {
  GateInput input;
  input.layers = 2;
  input.hidden = kHidden;
  input.experts = std::move(experts);
  input.routed = routed;
  input.experts_per_token = 1;
  input.encoder = &encoder;
  return input;
}

Gates make(const GateInput& input) { return find_gate_mode("ridge")->make(input); }

double product(std::span<const float> row, std::span<const float> inputs, size_t token) {
  double sum = 0;
  for (size_t i = 0; i < row.size(); i++) sum += double{row[i]} * inputs[token * row.size() + i];
  return sum;
}

TEST(Ridge, SendsTextsToTheirExpert) {
  FakeMixture encoder(2, 2, false);
  const Gates gates = make(input_of(
      {{.positive = texts(5, 3), .negative = {{30, 31}}}, {.positive = texts(12, 2), .negative = {}}}, 2,
      encoder));
  ASSERT_TRUE(gates.forecast);
  EXPECT_FALSE(gates.forecast->held_out);
  for (int64_t layer = 0; layer < 2; layer++) {
    const std::vector<float>& logits = encoder.logits(layer);
    const std::vector<float> inputs = encoder.inputs(layer);
    for (size_t token = 0; token < 52; token++) {
      const float first = logits[2 * token], second = logits[2 * token + 1];
      if (token < 30) {
        EXPECT_EQ(first, 0);
        EXPECT_EQ(second, -INFINITY);
      } else if (token < 32) {  // the negative prompt goes where the rows say
        EXPECT_NEAR(first, product(gates.table.row(layer, 0), inputs, token), 1e-4);
        EXPECT_NEAR(second, product(gates.table.row(layer, 1), inputs, token), 1e-4);
      } else {
        EXPECT_EQ(first, -INFINITY);
        EXPECT_EQ(second, 0);
      }
    }
    // Counted as the rows decide, not as they were overruled.
    const LayerRouting& counts = gates.forecast->stats.layers[static_cast<size_t>(layer)];
    EXPECT_EQ(counts.tokens, 50);
    int64_t right = 0;
    for (size_t token = 0; token < 52; token++) {
      if (token == 30 || token == 31) continue;
      const bool to_first = product(gates.table.row(layer, 0), inputs, token) >=
                            product(gates.table.row(layer, 1), inputs, token);
      right += to_first == (token < 30);
    }
    EXPECT_EQ(counts.confusion[0] + counts.confusion[3], right);
    EXPECT_LT(right, 50) << "these texts overlap";
    EXPECT_GT(right, 30);
  }
}

TEST(Ridge, NegativePromptsChangeNothing) {
  FakeMixture plain(2, 2, false), negative(2, 2, false);
  const Gates a = make(input_of(
                  {{.positive = texts(5, 3), .negative = {}}, {.positive = texts(12, 2), .negative = {}}}, 2,
                  plain)),
              b = make(input_of({{.positive = texts(5, 3), .negative = texts(20, 2)},
                                 {.positive = texts(12, 2), .negative = texts(2, 1)}},
                                2, negative));
  for (size_t i = 0; i < a.table.values.size(); i++)
    EXPECT_NEAR(a.table.values[i], b.table.values[i], 1e-4 * std::abs(a.table.values[i]) + 1e-5);
}

TEST(Ridge, EveryEighthSequenceIsHeldOut) {
  const auto rows = [](std::vector<TokenSequence> first, std::vector<TokenSequence> second,
                       Forecast* forecast) {
    FakeMixture encoder(2, 2, false);
    Gates gates = make(input_of(
        {{.positive = std::move(first), .negative = {}}, {.positive = std::move(second), .negative = {}}}, 2,
        encoder));
    if (forecast) *forecast = *gates.forecast;
    return gates.table.values;
  };
  Forecast forecast = {RoutingStats(1, 1), false};
  std::vector<TokenSequence> first = texts(5, 17), second = texts(12, 8);
  const std::vector<float> all = rows(first, second, &forecast);
  EXPECT_TRUE(forecast.held_out);
  EXPECT_EQ(forecast.stats.layers[0].tokens, 3 * 10);
  EXPECT_EQ(forecast.stats.layers[0].confusion[0] + forecast.stats.layers[0].confusion[1], 2 * 10);
  first[7] = first[15] = second[7] = texts(40, 1)[0];  // what is held out does not count
  EXPECT_EQ(rows(first, second, nullptr), all);
  first[6] = texts(40, 1)[0];
  EXPECT_NE(rows(first, second, nullptr), all);

  // One expert with seven: nothing to spare.
  second.pop_back();
  rows(first, second, &forecast);
  EXPECT_FALSE(forecast.held_out);
  EXPECT_EQ(forecast.stats.layers[0].tokens, (17 + 7) * 10);
}

TEST(Ridge, SharedExpert) {
  FakeMixture encoder(2, 2, true);
  const Gates gates = make(input_of({{.positive = texts(5, 3), .negative = {}},
                                     {.positive = texts(12, 2), .negative = {}},
                                     {.positive = texts(20, 1), .negative = {{1}}}},
                                    2, encoder));
  EXPECT_EQ(gates.forecast->stats.experts, 2);
  for (int64_t layer = 0; layer < 2; layer++) {
    const std::vector<float> inputs = encoder.inputs(layer);
    const auto mean = [&](size_t begin, size_t end) {
      std::vector<float> sum(kHidden);
      for (size_t token = begin; token < end; token++)
        for (size_t i = 0; i < kHidden; i++) sum[i] += inputs[token * kHidden + i];
      normalise(sum);
      return sum;
    };
    const std::vector<float> own = mean(50, 60), first = mean(0, 30), second = mean(30, 50);
    const auto row = gates.table.row(layer, 2);
    for (size_t i = 0; i < kHidden; i++) EXPECT_NEAR(row[i], own[i] - (first[i] + second[i]) / 2, 1e-6);
    for (size_t token = 0; token < 61; token++)
      EXPECT_NEAR(encoder.shares(layer)[token], 1 / (1 + std::exp(-product(row, inputs, token))), 1e-5);
    // Its own texts are not overruled.
    for (size_t token = 50; token < 60; token++)
      EXPECT_TRUE(std::isfinite(encoder.logits(layer)[2 * token + 1]));
  }
}

TEST(Ridge, SameBitsForAnyNumberOfThreads) {
  std::vector<float> values[2];
  for (const int threads : {1, 3}) {
    FakeMixture encoder(2, 2, true);
    GateInput input = input_of({{.positive = texts(5, 90), .negative = {}},
                                {.positive = texts(12, 60), .negative = {}},
                                {.positive = texts(20, 9), .negative = {}}},
                               2, encoder);
    input.threads = threads;
    values[threads / 3] = make(input).table.values;
  }
  EXPECT_EQ(values[0], values[1]);
}

}  // namespace
}  // namespace moerge
