#include "moerge/moe/gates/gate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

// State of a token in layer l: {token, l + 1, position}; enough to check sums by hand.
class CountingEncoder final : public PromptEncoder {
 public:
  explicit CountingEncoder(int64_t layers) : layers_(layers) {}
  void encode(std::span<const TokenSequence> sequences, const PassTaps& taps) override {
    for (int64_t layer = 0; layer < layers_; layer++) {
      std::vector<float> states;
      for (const TokenSequence& sequence : sequences)
        for (size_t i = 0; i < sequence.size(); i++)
          states.insert(states.end(), {static_cast<float>(sequence[i]), static_cast<float>(layer + 1),
                                       static_cast<float>(i)});
      if (taps.entering) taps.entering(layer, states);
      if (taps.router) taps.router({layer, states, {}, {}});
    }
  }

 private:
  int64_t layers_;
};

GateInput input_with(PromptEncoder* encoder) {
  GateInput input;
  input.layers = 2;
  input.hidden = 3;
  input.experts = {{.positive = {{5, 7}, {9}}, .negative = {}},
                   {.positive = {{1, 2, 3}}, .negative = {{4}, {6, 8}}}};
  input.routed = 2;
  input.encoder = encoder;
  input.seed = 3;
  input.stream_names = {"layer.0", "layer.1"};
  return input;
}

void expect_row(std::span<const float> row, std::vector<double> direction) {
  double length = 0;
  for (const double x : direction) length += x * x;
  for (size_t i = 0; i < row.size(); i++) EXPECT_NEAR(row[i], direction[i] / std::sqrt(length), 1e-6) << i;
}

TEST(HiddenGates, LastTokens) {
  CountingEncoder encoder(2);
  for (const char* name : {"hidden", "hidden_last"}) {
    const GateTable table = find_gate_mode(name)->make(input_with(&encoder)).table;
    expect_row(table.row(0, 0), {8, 1, 0.5});  // mean of {7, 1, 1} and {9, 1, 0}
    expect_row(table.row(1, 0), {8, 2, 0.5});
    expect_row(table.row(1, 1), {3 - 6, 0, 2 - 0.5});  // {3, 2, 2} minus the mean of {4, 2, 0} and {8, 2, 1}
  }
}

TEST(HiddenGates, AverageOverTokensWithoutPadding) {
  CountingEncoder encoder(2);
  const GateTable table = find_gate_mode("hidden_avg")->make(input_with(&encoder)).table;
  expect_row(table.row(0, 0), {(6 + 9) / 2.0, 1, 0.25});
  expect_row(table.row(0, 1), {2 - (4 + 7) / 2.0, 0, 1 - 0.25});
}

// The routers of CountingEncoder read its states: expert 0's tokens are {5, l, 0}, {7, l, 1}, {9, l, 0},
// expert 1's {1, l, 0}, {2, l, 1}, {3, l, 2}, minus those of {4, l, 0}, {6, l, 0}, {8, l, 1}.
class RouterInput : public ::testing::Test {
 protected:
  static std::vector<double> unit(std::vector<double> v) {
    const double length = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
    for (double& x : v) x /= length;
    return v;
  }
  static std::vector<double> first(double l) { return unit({7, l, 1 / 3.0}); }
  static std::vector<double> second(double) { return unit({2 - 6.0, 0, 1 - 1 / 3.0}); }
  static constexpr double kTokens[2][3][2] = {{{5, 0}, {7, 1}, {9, 0}}, {{1, 0}, {2, 1}, {3, 2}}};

  CountingEncoder encoder_{2};
};

TEST_F(RouterInput, MeansAgainstEachOtherMadeSharp) {
  const Gates gates = find_gate_mode("router_input")->make(input_with(&encoder_));
  for (int64_t layer = 0; layer < 2; layer++) {
    const auto l = static_cast<double>(layer + 1);
    const std::vector<double> a = first(l), b = second(l);
    const auto row = gates.table.row(layer, 0), other = gates.table.row(layer, 1);
    std::vector<double> half;
    for (size_t i = 0; i < 3; i++) half.push_back((a[i] - b[i]) / 2);
    double above = 0;  // how far the larger logit lies above the mean of both, before they are sharpened
    for (const auto& tokens : kTokens)
      for (const auto& [id, position] : tokens)
        above += std::abs(half[0] * id + half[1] * l + half[2] * position) / 6;
    for (size_t i = 0; i < 3; i++) {
      EXPECT_NEAR(row[i], half[i] * 4 / above, 1e-5);
      EXPECT_NEAR(other[i], -row[i], 1e-6);
    }
  }
  ASSERT_TRUE(gates.forecast);
  EXPECT_FALSE(gates.forecast->held_out);
  EXPECT_EQ(gates.forecast->stats.layers[1].tokens, 6);
}

// The rows of a mixture's own experts stay as they are; grow.cpp brings new ones to their length.
TEST_F(RouterInput, BesideOlderRows) {
  GateInput input = input_with(&encoder_);
  input.kept = 2;
  const Gates gates = find_gate_mode("router_input")->make(input);
  EXPECT_FALSE(gates.forecast);
  for (int64_t layer = 0; layer < 2; layer++) {
    expect_row(gates.table.row(layer, 0), first(static_cast<double>(layer + 1)));
    expect_row(gates.table.row(layer, 1), second(static_cast<double>(layer + 1)));
  }
}

TEST_F(RouterInput, OneExpert) {
  GateInput input = input_with(&encoder_);
  input.experts.resize(1);
  input.routed = 1;
  const Gates gates = find_gate_mode("router_input")->make(input);
  EXPECT_FALSE(gates.forecast);
  expect_row(gates.table.row(0, 0), first(1));
}

TEST_F(RouterInput, SharedExpert) {
  GateInput input = input_with(&encoder_);
  const GateTable without = find_gate_mode("router_input")->make(input).table;
  input.experts.push_back({.positive = {{3, 3}}, .negative = {}});
  const Gates gates = find_gate_mode("router_input")->make(input);
  EXPECT_EQ(gates.forecast->stats.experts, 2);
  for (int64_t layer = 0; layer < 2; layer++) {
    const auto l = static_cast<double>(layer + 1);
    const std::vector<double> a = first(l), b = second(l), own = unit({3, l, 0.5});
    const auto row = gates.table.row(layer, 2);
    const double factor = gates.table.row(layer, 0)[0] / ((a[0] - b[0]) / 2);
    for (size_t i = 0; i < 3; i++) {
      EXPECT_NEAR(row[i], factor * (own[i] - (a[i] + b[i]) / 2), 1e-5);
      EXPECT_EQ(gates.table.row(layer, 0)[i], without.row(layer, 0)[i]) << "it does not compete";
    }
  }
}

// The same texts: nothing to tell apart, and no NaN.
TEST_F(RouterInput, SameTexts) {
  GateInput input = input_with(&encoder_);
  input.experts[1] = input.experts[0];
  const Gates gates = find_gate_mode("router_input")->make(input);
  for (const float value : gates.table.values) EXPECT_NEAR(value, 0, 1e-6);
}

TEST_F(RouterInput, SameBitsForAnyNumberOfThreads) {
  GateInput input = input_with(&encoder_);
  const std::vector<float> one = find_gate_mode("router_input")->make(input).table.values;
  input.threads = 3;
  EXPECT_EQ(find_gate_mode("router_input")->make(input).table.values, one);
}

TEST(CheapEmbed, SumsEmbeddings) {
  const testing::TempDir dir;
  dir.write("model.safetensors",
            testing::safetensors_bytes({{"e", "F32", {10, 3}, testing::f32_bytes(30, 1)}}));
  const Checkpoint checkpoint(dir.path());
  GateInput input = input_with(nullptr);
  input.embedding = &checkpoint.at("e");
  const GateTable table = find_gate_mode("cheap_embed")->make(input).table;
  const auto value = [](int token, int i) {
    return std::sin(static_cast<float>(token * 3 + i) * 0.37f + 1.7f) * 0.2f;
  };
  const auto unit_sum = [&](std::vector<int> tokens) {
    std::vector<double> sum(3);
    for (const int token : tokens)
      for (int i = 0; i < 3; i++) sum[static_cast<size_t>(i)] += value(token, i);
    const double length = std::sqrt(sum[0] * sum[0] + sum[1] * sum[1] + sum[2] * sum[2]);
    for (double& x : sum) x /= length;
    return sum;
  };
  expect_row(table.row(0, 0), unit_sum({5, 7, 9}));
  std::vector<double> difference = unit_sum({1, 2, 3});
  const std::vector<double> negative = unit_sum({4, 6, 8});
  for (size_t i = 0; i < 3; i++) difference[i] -= negative[i];
  expect_row(table.row(0, 1), difference);
  EXPECT_TRUE(std::ranges::equal(table.row(0, 1), table.row(1, 1)));
}

TEST(RandomGates, HaveTheirDistribution) {
  GateInput input = input_with(nullptr);
  input.hidden = 20000;
  const GateTable normal = find_gate_mode("random")->make(input).table,
                  uniform = find_gate_mode("uniform_random")->make(input).table;
  double squares = 0;
  for (const float x : normal.values) squares += x * x;
  EXPECT_NEAR(squares / static_cast<double>(normal.values.size()), 1, 0.02);
  const auto [low, high] = std::ranges::minmax(uniform.values);
  EXPECT_NEAR(low, -1 / std::sqrt(20000.0), 1e-5);
  EXPECT_NEAR(high, 1 / std::sqrt(20000.0), 1e-5);
  EXPECT_EQ(normal.values, find_gate_mode("random")->make(input).table.values);
  EXPECT_FALSE(std::ranges::equal(normal.row(0, 0), normal.row(1, 0)));
  EXPECT_FALSE(std::ranges::equal(normal.row(0, 0), normal.row(0, 1)));
  input.seed = 4;
  EXPECT_NE(normal.values, find_gate_mode("random")->make(input).table.values);
}

TEST(Collisions, AreNamed) {
  GateTable table(3, 3, 2);
  for (int64_t layer = 0; layer < 3; layer++) {
    table.row(layer, 0)[0] = 1;
    table.row(layer, 1)[1] = 1;
    table.row(layer, 2)[0] = layer == 1 ? 0.0f : 2.0f;
    table.row(layer, 2)[1] = layer == 1 ? 1.0f : 0.1f;
  }
  const std::vector<Collision> found = find_collisions(table, 3);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].first, 0);
  EXPECT_EQ(found[0].second, 2);
  EXPECT_EQ(found[0].layers, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(found[1].first, 1);
  EXPECT_NEAR(found[1].cosine, 1, 1e-9);
}

// mergekit warns when the condition number exceeds 5; for two unit rows that is a cosine of 12/13.
TEST(Collisions, ThresholdIsMergekits) {
  for (const double cosine : {12.0 / 13 - 1e-4, 12.0 / 13 + 1e-4}) {
    GateTable table(1, 2, 2);
    table.row(0, 0)[0] = 1;
    table.row(0, 1)[0] = static_cast<float>(cosine);
    table.row(0, 1)[1] = static_cast<float>(std::sqrt(1 - cosine * cosine));
    const double condition = std::sqrt((1 + cosine) / (1 - cosine));
    EXPECT_EQ(find_collisions(table, 2).empty(), condition < 5);
  }
}

TEST(Collisions, RowsOfZerosCollide) { EXPECT_EQ(find_collisions(GateTable(1, 2, 4), 2).size(), 1u); }

// A shared expert's row is compared with no other: it weighs that expert and takes no tokens from others.
TEST(Collisions, SharedExpertsDoNotCompete) {
  GateTable table(1, 3, 2);
  table.row(0, 0)[0] = 1;
  table.row(0, 1)[1] = 1;
  table.row(0, 2)[1] = 1;
  EXPECT_TRUE(find_collisions(table, 2).empty());
  EXPECT_EQ(find_collisions(table, 3).size(), 1u);
}

TEST(LayerRanges, AreShort) {
  EXPECT_EQ(layer_ranges(std::vector<int64_t>{0, 1, 2, 5, 7, 8}), "0-2, 5, 7-8");
  EXPECT_EQ(layer_ranges({}), "");
}

}  // namespace
}  // namespace moerge
