#include "moerge/merge/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
constexpr DType kTypes[] = {DType::bf16, DType::f16, DType::f32};

std::vector<float> numbers() {
  std::vector<float> out = {0.0f, -0.0f, kNan, -kNan, kInf, -kInf, 1e-40f, -1e-40f, 1.0f / 3, -2.5f};
  for (int i = 0; i < 57; i++)
    out.push_back(static_cast<float>(std::sin(i)) * std::exp2f(static_cast<float>(i % 9 - 4)));
  return out;
}

// Every pair of numbers, whatever lane it comes into.
TEST(Kernels, AgreeingIsHavingTheSignOfTheSum) {
  const std::vector<float> all = numbers();
  for (const DType dtype : kTypes)
    for (const float total : all) {
      const std::vector<float> sum(all.size(), total);
      std::vector<float> out(all.size(), 1.0f), divisor(all.size(), 2.0f);
      add_agreeing(dtype, sum, all, 0.5f, out, divisor);
      for (size_t i = 0; i < all.size(); i++) {
        const bool agrees = rounded(dtype, static_cast<double>(total)) >= 0 ? all[i] > 0 : all[i] < 0;
        ASSERT_EQ(out[i], agrees ? 1 + all[i] : 1.0f) << total << " " << all[i];
        ASSERT_EQ(divisor[i], agrees ? 2.5f : 2.0f) << total << " " << all[i];
      }
    }
}

TEST(Kernels, LargeOnesStay) {
  std::vector<float> values = numbers();
  const std::vector<float> before = values;
  keep_magnitudes(std::bit_cast<uint32_t>(0.25f), values);
  for (size_t i = 0; i < values.size(); i++)
    ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::abs(before[i]) >= 0.25f || std::isnan(before[i])
                                                      ? std::bit_cast<uint32_t>(before[i])
                                                      : 0u);
}

TEST(Kernels, SumsOfAnyLength) {
  std::vector<float> a, b;
  double magnitudes = 0, products = 0;
  for (int i = 0; i < 100; i++) {
    EXPECT_NEAR(sum_magnitudes(a), magnitudes, 1e-12);
    EXPECT_NEAR(dot_product(a, b), products, 1e-12);
    a.push_back(static_cast<float>(std::cos(i))), b.push_back(static_cast<float>(std::sin(3 * i)));
    magnitudes += std::abs(static_cast<double>(a.back()));
    products += static_cast<double>(a.back()) * static_cast<double>(b.back());
  }
}

TEST(Kernels, RoundAfterEachOperation) {
  const std::vector<float> a = {1.0f / 3, 2.0f / 3, -5.0f / 7}, b = {0.1f, 0.2f, 0.7f};
  for (const DType dtype : kTypes) {
    const auto round = [&](float value) { return rounded(dtype, static_cast<double>(value)); };
    std::vector<float> difference(3), mixed(3), scaled = a, divided = a, sums = a,
                                                divisors = {0, 1.0f / 3, 2};
    subtract_values(dtype, a, b, difference);
    mix_values(dtype, 0.3f, a, 0.7f, b, mixed);
    scale_values(dtype, 0.3f, scaled);
    divide_values(dtype, b, divided);
    round_sums(dtype, sums, divisors);
    for (size_t i = 0; i < 3; i++) {
      EXPECT_EQ(difference[i], round(a[i] - b[i]));
      EXPECT_EQ(scaled[i], round(a[i] * 0.3f));
      EXPECT_EQ(divided[i], round(a[i] / b[i]));
      EXPECT_EQ(sums[i], round(a[i]));
      EXPECT_NEAR(mixed[i], 0.3f * a[i] + 0.7f * b[i], 4e-3);
    }
    EXPECT_EQ(divisors, (std::vector<float>{1, round(1.0f / 3), 2}));
  }
}

}  // namespace
}  // namespace moerge
