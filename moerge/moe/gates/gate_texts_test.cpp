#include "moerge/moe/gates/gate_texts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace moerge {
namespace {

// Two experts and a shared one.
GateInput three() {
  GateInput input;
  input.layers = 1;
  input.hidden = 2;
  input.experts = {{.positive = {{5, 7}, {9}}, .negative = {{1}}},
                   {.positive = {{1, 2, 3}}, .negative = {}},
                   {.positive = {{4}}, .negative = {{6, 8}}}};
  input.routed = 2;
  return input;
}

TEST(GateTexts, AreInTheOrderOfTheExperts) {
  const GateInput input = three();
  const GateTexts texts = gate_texts(input);
  EXPECT_EQ(texts.sequences, (std::vector<TokenSequence>{{5, 7}, {9}, {1}, {1, 2, 3}, {4}, {6, 8}}));
  EXPECT_EQ(texts.tokens, 10);
  ASSERT_EQ(texts.of.size(), 6u);
  EXPECT_EQ(texts.of[2].expert, 0);
  EXPECT_TRUE(texts.of[2].negative);
  EXPECT_EQ(texts.of[3].begin, 4);
  EXPECT_EQ(texts.of[3].end, 7);
  EXPECT_EQ(texts.meant(input), (std::vector<int64_t>{0, 0, 0, -1, 1, 1, 1, -1, -1, -1}));
  EXPECT_EQ(bytes_of_texts(input), 10 * (4 + 8 + 4 + 4 * 2));
}

TEST(BalancedWeights, SumToTheSameForEveryExpert) {
  std::vector<int64_t> meant(1003, 1);
  meant[3] = meant[500] = -1;
  meant[1002] = 0;
  const std::vector<float> weights = balanced_weights(meant, 2);
  EXPECT_EQ(weights[3], 0);
  EXPECT_FLOAT_EQ(weights[1002], 0.5f);
  EXPECT_FLOAT_EQ(weights[0], 0.5f / 1000);
  EXPECT_NEAR(std::accumulate(weights.begin(), weights.end(), 0.0), 1, 1e-6);
}

TEST(Sharpening, PutsTheLargestLogitThere) {
  // Largest above the mean: 2 at weight 0.25, 3 at 0.75; the third token does not count.
  std::vector<float> logits = {4, 1, 1, /**/ -4, -1, 4.5, /**/ 100, 0, 0};
  const std::vector<float> weights = {0.25f, 0.75f, 0};
  const auto above = [&] {
    return 0.25 * (logits[0] - (logits[0] + logits[1] + logits[2]) / 3) +
           0.75 * (logits[5] - (logits[3] + logits[4] + logits[5]) / 3);
  };
  const double factor = sharpening(logits, weights, 4);
  for (float& logit : logits) logit *= static_cast<float>(factor);
  EXPECT_NEAR(above(), 4, 1e-5);
}

TEST(Sharpening, LeavesRowsThatSayNothing) {
  EXPECT_EQ(sharpening(std::vector<float>{2, 2, 5, 5}, std::vector<float>{0.5, 0.5}, 4), 1);
  EXPECT_EQ(sharpening(std::vector<float>{1, 2}, std::vector<float>{0}, 4), 1);
}

TEST(CountRouting, LeavesOutTokensOfNobody) {
  GateInput input = three();
  input.experts_per_token = 4;  // more than there are
  Forecast forecast = {RoutingStats(1, 2), false};
  count_routing(forecast, input, 0, std::vector<float>{1, 0, /**/ 1, 0, /**/ 1, 0},
                std::vector<int64_t>{0, -1, 1});
  EXPECT_EQ(forecast.stats.layers[0].tokens, 2);
  EXPECT_EQ(forecast.stats.layers[0].first, (std::vector<int64_t>{2, 0}));
  EXPECT_EQ(forecast.stats.layers[0].chosen, (std::vector<int64_t>{2, 2}));
  EXPECT_DOUBLE_EQ(forecast.stats.right_share(), 0.5);
}

}  // namespace
}  // namespace moerge
