#include "moerge/base/random.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moerge {
namespace {

// Known answers from the Random123 distribution (kat_vectors, philox4x32 10).
TEST(Random, PhiloxKnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Random, SixteenBlocksAtOnce) {
  const RandomStream stream(0x123456789u, "x");
  for (const uint64_t first : {uint64_t{0}, uint64_t{7}, (uint64_t{1} << 32) - 5}) {
    const RandomStream::Blocks blocks = stream.blocks(first);
    for (size_t i = 0; i < 16; i++)
      for (size_t w = 0; w < 4; w++) EXPECT_EQ(blocks[w][i], stream.block(first + i)[w]);
  }
}

TEST(Random, NormalHasUnitMoments) {
  const RandomStream stream(7, "model.layers.0.weight");
  double sum = 0, squares = 0, fourth = 0, neighbours = 0;
  const int n = 200000;
  float before = 0;
  for (int i = 0; i < n; i++) {
    const float x = stream.normal(i);
    ASSERT_TRUE(std::isfinite(x));
    sum += x, squares += x * x, fourth += std::pow(x, 4), neighbours += x * before;
    before = x;
  }
  EXPECT_NEAR(sum / n, 0, 0.01);
  EXPECT_NEAR(squares / n, 1, 0.02);
  EXPECT_NEAR(fourth / n, 3, 0.1);
  EXPECT_NEAR(neighbours / n, 0, 0.01);
}

TEST(Random, UniformCoversTheUnitInterval) {
  const RandomStream stream(7, "x");
  double sum = 0;
  for (int i = 0; i < 100000; i++) {
    const float x = stream.uniform(i);
    ASSERT_GE(x, 0.0f);
    ASSERT_LT(x, 1.0f);
    sum += x;
  }
  EXPECT_NEAR(sum / 100000, 0.5, 0.005);
}

TEST(Random, SeedAndNameSeparateStreams) {
  EXPECT_EQ(RandomStream(1, "a").normal(5), RandomStream(1, "a").normal(5));
  EXPECT_NE(RandomStream(1, "a").normal(5), RandomStream(1, "b").normal(5));
  EXPECT_NE(RandomStream(1, "a").normal(5), RandomStream(2, "a").normal(5));
}

}  // namespace
}  // namespace moerge
