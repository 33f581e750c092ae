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

// As the definition says it, one element after the other.
float agreeing(DType dtype, const AgreeingSum& sum, size_t i, float base) {
  const auto round = [&](float value) { return rounded(dtype, static_cast<double>(value)); };
  float all = 0, value = 0, divisor = 0;
  for (const std::span<const float> difference : sum.differences) all += difference[i];
  for (size_t d = 0; d < sum.differences.size(); d++) {
    const float one = sum.differences[d][i];
    if (round(all) >= 0 ? !(one > 0) : !(one < 0)) continue;
    value += one, divisor += sum.weights[d];
  }
  value = round(value);
  if (sum.normalize && round(divisor) != 0) value = round(value / round(divisor));
  return round(base + round(value * sum.lambda));
}

// Every pair of numbers, whatever lane it comes into.
TEST(Kernels, AgreeingIsHavingTheSignOfTheSum) {
  const std::vector<float> all = numbers();
  for (const DType dtype : kTypes)
    for (const float other : all) {
      // More than a step.
      std::vector<float> one, base, out;
      while (one.size() < 1200) one.insert(one.end(), all.begin(), all.end());
      for (size_t i = 0; i < one.size(); i++)
        base.push_back(rounded(dtype, std::cos(static_cast<double>(i))));
      const std::vector<float> two(one.size(), other), three(one.size(), 0.125f);
      const std::vector<std::span<const float>> differences = {one, two, three};
      const std::vector<float> weights = {0.5f, 0.3f, -0.3f};
      for (const bool normalize : {false, true})
        for (const float lambda : {1.0f, 0.7f})
          for (const size_t count : {size_t{0}, size_t{1}, size_t{3}}) {
            const AgreeingSum sum = {.differences = std::span(differences).first(count),
                                     .weights = weights,
                                     .normalize = normalize,
                                     .lambda = lambda};
            out.assign(one.size(), -1.0f);
            add_agreeing(dtype, sum, base, out);
            for (size_t i = 0; i < out.size(); i++) {
              const float expected = agreeing(dtype, sum, i, base[i]);
              if (std::isnan(expected))
                ASSERT_TRUE(std::isnan(out[i])) << other << " " << i;
              else
                ASSERT_EQ(out[i], expected) << other << " " << i << " " << normalize << " " << lambda;
            }
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
    std::vector<float> difference(3), mixed(3), scaled = a, divided = a;
    subtract_values(dtype, a, b, difference);
    mix_values(dtype, 0.3f, a, 0.7f, b, mixed);
    scale_values(dtype, 0.3f, scaled);
    divide_values(dtype, 0.7f, divided);
    for (size_t i = 0; i < 3; i++) {
      EXPECT_EQ(difference[i], round(a[i] - b[i]));
      EXPECT_EQ(scaled[i], round(a[i] * 0.3f));
      EXPECT_EQ(divided[i], round(a[i] / 0.7f));
      EXPECT_NEAR(mixed[i], 0.3f * a[i] + 0.7f * b[i], 4e-3);
    }
  }
}

}  // namespace
}  // namespace moerge
