#include "moerge/engine/log_softmax.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace moerge {
namespace {

TEST(LogSoftmax, AsInDoublePrecision) {
  std::mt19937 dice(1);
  for (const size_t size : {1u, 7u, 8u, 1001u, 49152u})
    for (const float width : {0.0f, 1.0f, 10.0f, 300.0f}) {
      std::vector<float> logits(size);
      for (float& logit : logits) logit = width * (static_cast<float>(dice() % 20001) / 10000 - 1);
      double sum = 0;
      const float max = *std::max_element(logits.begin(), logits.end());
      for (const float logit : logits) sum += std::exp(double{logit} - double{max});
      const LogSoftmax found = log_softmax(logits);
      EXPECT_NEAR(found.log_sum, std::log(sum), 1e-6) << size << " " << width;
      EXPECT_EQ(logits.begin() + static_cast<ptrdiff_t>(found.argmax), std::ranges::max_element(logits));
      EXPECT_NEAR(found.of(logits[0]), double{logits[0]} - double{max} - std::log(sum), 1e-6);
    }
}

TEST(LogSoftmax, FirstOfEqualOnes) { EXPECT_EQ(log_softmax(std::vector<float>{1, 3, 2, 3}).argmax, 1u); }

TEST(LogSoftmax, WhatIsNotFinite) {
  for (const size_t at : {0u, 3u, 8u}) {  // in the vector part and behind it
    for (const float bad : {NAN, INFINITY}) {
      std::vector<float> logits(9, 1.0f);
      logits[at] = bad;
      EXPECT_FALSE(std::isfinite(log_softmax(logits).log_sum)) << at;
    }
    std::vector<float> logits(9, 1.0f);
    logits[at] = -INFINITY;
    EXPECT_NEAR(log_softmax(logits).log_sum, std::log(8.0), 1e-6);
  }
  EXPECT_FALSE(std::isfinite(log_softmax(std::vector<float>(9, -INFINITY)).log_sum));
}

}  // namespace
}  // namespace moerge
