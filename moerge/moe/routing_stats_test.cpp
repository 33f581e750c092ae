#include "moerge/moe/routing_stats.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moerge {
namespace {

TEST(RoutingStats, CountsByHand) {
  RoutingStats stats(2, 3);
  const float ln2 = std::log(2.0f);
  // Two tokens at once, then one more: shares 1/2 1/4 1/4; 1/5 2/5 2/5 (the lower number first); 1/4 1/4 1/2.
  stats.add(0, std::vector<float>{ln2, 0, 0, /**/ 0, ln2, ln2}, std::vector<int64_t>{0, 2}, 2);
  stats.add(0, std::vector<float>{5, 5, 5 + ln2}, std::vector<int64_t>{-1}, 2);
  const LayerRouting& layer = stats.layers[0];
  EXPECT_EQ(layer.tokens, 3);
  EXPECT_EQ(layer.first, (std::vector<int64_t>{1, 1, 1}));
  EXPECT_EQ(layer.chosen, (std::vector<int64_t>{2, 2, 2}));
  EXPECT_NEAR(layer.probability[0], 0.5 + 0.2 + 0.25, 1e-6);
  EXPECT_NEAR(layer.probability[1], 0.25 + 0.4 + 0.25, 1e-6);
  const double half = 0.5 * std::log(2.0) + 2 * 0.25 * std::log(4.0);
  EXPECT_NEAR(layer.entropy, 2 * half + 0.2 * std::log(5.0) + 0.8 * std::log(2.5), 1e-6);
  EXPECT_EQ(layer.confusion, (std::vector<int64_t>{1, 0, 0, 0, 0, 0, 0, 1, 0}));

  stats.add(1, std::vector<float>{0, 0, 1}, std::vector<int64_t>{0}, 1);
  EXPECT_DOUBLE_EQ(stats.right_share(0), 0.5);
  EXPECT_DOUBLE_EQ(stats.right_share(1), -1);
  EXPECT_DOUBLE_EQ(stats.right_share(2), 0);
  EXPECT_DOUBLE_EQ(stats.right_share(), 0.25);
  EXPECT_DOUBLE_EQ(stats.load(2), 3.0 / 7);
}

TEST(RoutingStats, NothingCounted) {
  const RoutingStats stats(1, 2);
  EXPECT_EQ(stats.right_share(), -1);
  EXPECT_EQ(stats.load(0), 0);
}

}  // namespace
}  // namespace moerge
