#include "moerge/merge/draws.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace moerge {
namespace {

std::vector<float> draw(const Draws& draws, uint64_t first, size_t count) {
  std::vector<float> out(count);
  draws.fill(first, out);
  return out;
}

TEST(Draws, DependOnTheIndexAlone) {
  const Draws draws(7, "name");
  const std::vector<float> all = draw(draws, 0, 5000);
  for (const uint64_t first : {0, 1, 1023, 1024, 3000})
    for (const size_t count : {0, 1, 5, 1024, 1900}) {
      const std::vector<float> some = draw(draws, first, count);
      EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + static_cast<std::ptrdiff_t>(first)));
    }
  EXPECT_NE(draw(Draws(8, "name"), 0, 8), draw(draws, 0, 8));
  EXPECT_NE(draw(Draws(7, "other"), 0, 8), draw(draws, 0, 8));
}

// Steps of the published generator, from the state that the stream's blocks give it.
TEST(Draws, AreThoseOfXoshiro) {
  const RandomStream states(7, "name");
  const std::vector<float> all = draw(Draws(7, "name"), 0, 2048);
  for (const uint64_t generator : {0, 5, 15, 16 + 3}) {
    std::array<uint32_t, 4> s = states.block(generator);
    for (size_t step = 0; step < 64; step++) {
      const uint32_t result = s[0] + s[3], t = s[1] << 9;
      s[2] ^= s[0], s[3] ^= s[1], s[1] ^= s[2], s[0] ^= s[3], s[2] ^= t;
      s[3] = (s[3] << 11) | (s[3] >> 21);
      ASSERT_EQ(all[generator / 16 * 1024 + step * 16 + generator % 16],
                static_cast<float>(result >> 8) * 0x1p-24f);
    }
  }
}

// Shares below a limit, and pairs at small distances, come as often as they should.
TEST(Draws, AreIndependent) {
  constexpr size_t kCount = 1 << 20;
  const std::vector<float> all = draw(Draws(1, "layer"), 0, kCount);
  for (const float limit : {0.01f, 0.3f, 0.5f, 0.9f}) {
    const auto share = [&](size_t distance) {
      size_t both = 0;
      for (size_t i = 0; i + distance < kCount; i++) both += all[i] < limit && all[i + distance] < limit;
      return static_cast<double>(both) / kCount;
    };
    const double p = static_cast<double>(limit), deviation = std::sqrt(p / kCount);
    EXPECT_NEAR(share(0), p, 5 * deviation) << limit;
    for (const size_t distance : {1, 2, 16, 17, 64, 1023, 1024, 1040})
      EXPECT_NEAR(share(distance), p * p, 6 * deviation + 2e-3) << limit << " " << distance;
  }
}

}  // namespace
}  // namespace moerge
