#include "moerge/tensor/least_squares.h"

#include <gtest/gtest.h>

#include <cmath>

#include "moerge/base/error.h"
#include "moerge/base/random.h"

namespace moerge {
namespace {

std::vector<float> random_values(size_t count, const char* name) {
  const RandomStream stream(1, name);
  std::vector<float> out(count);
  for (size_t i = 0; i < count; i++) out[i] = stream.normal(i);
  return out;
}

// Sizes around the blocks that the sums are cut into.
class LeastSquares : public ::testing::TestWithParam<std::pair<int64_t, int64_t>> {
 protected:
  const int64_t count = GetParam().first, columns = GetParam().second;
  const std::vector<float> rows = random_values(static_cast<size_t>(count * columns), "rows");
  double at(int64_t row, int64_t column) const { return rows[static_cast<size_t>(row * columns + column)]; }
};

TEST_P(LeastSquares, SecondMoment) {
  std::vector<float> weights = random_values(static_cast<size_t>(count), "weights");
  for (float& weight : weights) weight = std::abs(weight);
  const std::vector<double> found = second_moment({rows, weights, columns}, 2);
  for (const auto& [i, j] :
       {std::pair<int64_t, int64_t>{0, 0}, {columns - 1, 0}, {columns / 2, columns - 1}}) {
    double expected = 0, size = 0;
    for (int64_t r = 0; r < count; r++) {
      const double term = weights[static_cast<size_t>(r)] * at(r, i) * at(r, j);
      expected += term, size += std::abs(term);
    }
    EXPECT_NEAR(found[static_cast<size_t>(i * columns + j)], expected, 4e-6 * size);
    EXPECT_EQ(found[static_cast<size_t>(i * columns + j)], found[static_cast<size_t>(j * columns + i)]);
  }
  EXPECT_EQ(second_moment({rows, weights, columns}, 1), found);
}

TEST_P(LeastSquares, Products) {
  constexpr int64_t kOutputs = 3;
  const std::vector<float> matrix = random_values(static_cast<size_t>(kOutputs * columns), "matrix");
  std::vector<float> products(static_cast<size_t>(count * kOutputs));
  multiply_rows(rows, columns, matrix, products, 2);
  const std::vector<double> sums = weighted_sums(rows, columns, products, kOutputs, 2);
  EXPECT_EQ(weighted_sums(rows, columns, products, kOutputs, 1), sums);
  for (int64_t k = 0; k < kOutputs; k++) {
    for (const int64_t r : {int64_t{0}, count - 1}) {
      double expected = 0, size = 0;
      for (int64_t c = 0; c < columns; c++) {
        const double term = at(r, c) * matrix[static_cast<size_t>(k * columns + c)];
        expected += term, size += std::abs(term);
      }
      EXPECT_NEAR(products[static_cast<size_t>(r * kOutputs + k)], expected, 4e-6 * size);
    }
    for (const int64_t c : {int64_t{0}, columns - 1}) {
      double expected = 0, size = 0;
      for (int64_t r = 0; r < count; r++) {
        const double term = at(r, c) * products[static_cast<size_t>(r * kOutputs + k)];
        expected += term, size += std::abs(term);
      }
      EXPECT_NEAR(sums[static_cast<size_t>(k * columns + c)], expected, 4e-6 * size);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, LeastSquares,
                         ::testing::Values(std::pair(1, 1), std::pair(255, 7), std::pair(600, 257),
                                           std::pair(256, 512)));

TEST(SymmetricSystem, SolvesEachSide) {
  const SymmetricSystem system({4, 2, 2, 3});
  std::vector<double> sides = {8, 7, /**/ 4, 2};
  system.solve(sides);
  const std::vector<double> expected = {1.25, 1.5, 1, 0};
  for (size_t i = 0; i < 4; i++) EXPECT_NEAR(sides[i], expected[i], 1e-12);
}

TEST(SymmetricSystem, RefusesWhatHasNoSolution) {
  EXPECT_THROW(SymmetricSystem({1, 2, 2, 1}), Error);
  EXPECT_THROW(SymmetricSystem({0, 0, 0, 0}), Error);
  EXPECT_THROW(SymmetricSystem({1, 0, 0, NAN}), Error);
}

}  // namespace
}  // namespace moerge
