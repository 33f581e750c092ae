#include "moerge/model/routing.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moerge {
namespace {

ModelConfig config_of(int64_t experts, int64_t per_token) {
  ModelConfig config;
  config.experts = experts;
  config.experts_per_token = per_token;
  return config;
}

TEST(RouteTokens, SharesOfTheChosen) {
  const float e = std::exp(1.0f), all = 1 + e + e * e + e * e * e;
  ModelConfig config = config_of(4, 2);
  config.normalised = false;
  const std::vector<float> logits = {0, 2, 1, 3, /**/ 1003, 1002, 1001, 1000};
  std::vector<RoutedTokens> routes = route_tokens(logits, config);
  ASSERT_EQ(routes.size(), 4u);
  EXPECT_EQ(routes[0].tokens, (std::vector<int64_t>{1}));
  EXPECT_EQ(routes[1].tokens, (std::vector<int64_t>{0, 1}));
  EXPECT_TRUE(routes[2].tokens.empty());
  EXPECT_EQ(routes[3].tokens, (std::vector<int64_t>{0}));
  EXPECT_FLOAT_EQ(routes[0].weights[0], e * e * e / all);
  EXPECT_FLOAT_EQ(routes[1].weights[0], e * e / all);
  EXPECT_FLOAT_EQ(routes[1].weights[1], e * e / all);

  config.normalised = true;
  config.routed_scale = 2.5;
  routes = route_tokens(logits, config);
  EXPECT_FLOAT_EQ(routes[3].weights[0], 2.5f * e / (1 + e));
  EXPECT_FLOAT_EQ(routes[1].weights[0], 2.5f / (1 + e));
}

TEST(RouteTokens, TheLowerNumberOfEqualOnes) {
  const std::vector<RoutedTokens> routes =
      route_tokens(std::vector<float>{1, 5, 1, 1, 1, /**/ 0, 0, 0, 0, 0}, config_of(5, 3));
  EXPECT_EQ(routes[0].tokens, (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(routes[1].tokens, (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(routes[2].tokens, (std::vector<int64_t>{0, 1}));
  EXPECT_TRUE(routes[3].tokens.empty());
  EXPECT_FLOAT_EQ(routes[2].weights[1], 1.0f / 3);
}

TEST(RouteTokens, ExtremeLogits) {
  std::vector<RoutedTokens> routes = route_tokens(std::vector<float>{-3e38f, 3e38f, 0}, config_of(3, 3));
  EXPECT_EQ(routes[1].weights[0], 1.0f);
  EXPECT_TRUE(routes[0].tokens.empty());
  EXPECT_TRUE(routes[2].tokens.empty());
  routes = route_tokens(std::vector<float>{-INFINITY, 2, -INFINITY}, config_of(3, 2));
  EXPECT_EQ(routes[1].weights, (std::vector<float>{1}));
  EXPECT_TRUE(routes[0].tokens.empty());
  for (const RoutedTokens& route : route_tokens({}, config_of(3, 1))) EXPECT_TRUE(route.tokens.empty());
}

}  // namespace
}  // namespace moerge
