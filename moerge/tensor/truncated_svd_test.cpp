#include "moerge/tensor/truncated_svd.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "moerge/base/error.h"
#include "moerge/base/random.h"

namespace moerge {
namespace {

struct Matrix {
  int64_t rows, columns;
  std::vector<float> values;

  MatrixView view() const { return {values, rows, columns}; }
  float at(int64_t i, int64_t j) const { return values[static_cast<size_t>(i * columns + j)]; }
};

Matrix random_matrix(int64_t rows, int64_t columns, const std::string& name) {
  const RandomStream stream(7, name);
  Matrix out = {rows, columns, std::vector<float>(static_cast<size_t>(rows * columns))};
  for (size_t i = 0; i < out.values.size(); i++) out.values[i] = stream.normal(i);
  return out;
}

// Rows become orthonormal (Gram-Schmidt, twice), in float64.
std::vector<std::vector<double>> orthonormal_rows(int64_t count, int64_t length, const std::string& name) {
  const Matrix random = random_matrix(count, length, name);
  std::vector<std::vector<double>> rows;
  for (int64_t i = 0; i < count; i++) {
    std::vector<double> row(static_cast<size_t>(length));
    for (int64_t j = 0; j < length; j++) row[static_cast<size_t>(j)] = random.at(i, j);
    for (int time = 0; time < 2; time++) {
      for (const auto& other : rows) {
        double dot = 0;
        for (size_t j = 0; j < row.size(); j++) dot += row[j] * other[j];
        for (size_t j = 0; j < row.size(); j++) row[j] -= dot * other[j];
      }
      double norm = 0;
      for (const double x : row) norm += x * x;
      for (double& x : row) x /= std::sqrt(norm);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

// With these singular values.
Matrix with_spectrum(int64_t rows, int64_t columns, const std::vector<double>& spectrum) {
  const auto count = static_cast<int64_t>(spectrum.size());
  const auto u = orthonormal_rows(count, rows, "u"), v = orthonormal_rows(count, columns, "v");
  Matrix out = {rows, columns, {}};
  std::vector<double> row(static_cast<size_t>(columns));
  for (size_t i = 0; i < static_cast<size_t>(rows); i++) {
    std::ranges::fill(row, 0.0);
    for (size_t k = 0; k < spectrum.size(); k++)
      for (size_t j = 0; j < row.size(); j++) row[j] += spectrum[k] * u[k][i] * v[k][j];
    for (const double x : row) out.values.push_back(static_cast<float>(x));
  }
  return out;
}

std::vector<double> spectrum(int64_t count, const std::function<double(double)>& value) {
  std::vector<double> out;
  for (int64_t i = 0; i < count; i++) out.push_back(value(static_cast<double>(i)));
  return out;
}

double tail(const std::vector<double>& spectrum, int64_t rank) {
  double sum = 0;
  for (size_t i = static_cast<size_t>(rank); i < spectrum.size(); i++) sum += spectrum[i] * spectrum[i];
  return std::sqrt(sum);
}

std::vector<float> scaled_left(const TruncatedSvd& svd) {
  std::vector<float> out = svd.left;
  const auto rank = static_cast<size_t>(svd.rank);
  for (size_t i = 0; i < out.size(); i++) out[i] *= svd.values[i % rank];
  return out;
}

double residual(const Matrix& matrix, const TruncatedSvd& svd) {
  return std::sqrt(squared_residual(matrix.view(), scaled_left(svd), svd.right, 2));
}

void expect_orthonormal(const TruncatedSvd& svd, int64_t rows, int64_t columns) {
  const auto rank = static_cast<size_t>(svd.rank);
  ASSERT_EQ(svd.left.size(), static_cast<size_t>(rows) * rank);
  ASSERT_EQ(svd.right.size(), rank * static_cast<size_t>(columns));
  ASSERT_EQ(svd.values.size(), rank);
  EXPECT_TRUE(std::ranges::is_sorted(svd.values, std::greater()));
  for (size_t a = 0; a < rank; a++)
    for (size_t b = 0; b <= a; b++) {
      double left = 0, right = 0;
      for (size_t i = 0; i < static_cast<size_t>(rows); i++)
        left += double(svd.left[i * rank + a]) * svd.left[i * rank + b];
      for (size_t j = 0; j < static_cast<size_t>(columns); j++)
        right += double(svd.right[a * static_cast<size_t>(columns) + j]) *
                 svd.right[b * static_cast<size_t>(columns) + j];
      EXPECT_NEAR(left, a == b, 2e-5) << a << " " << b;
      EXPECT_NEAR(right, a == b, 2e-5) << a << " " << b;
    }
}

struct Case {
  const char* name;
  int64_t rows, columns, rank, count;  // count: of singular values that are not 0
  double (*value)(double);
  double value_error = 1e-5;  // of each singular value, in parts of the largest
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// Exact where a side is short; by random projections else. Flat ones are the hardest for those.
class Spectrum : public ::testing::TestWithParam<Case> {};

TEST_P(Spectrum, WithinOnePercentOfTheOptimum) {
  const Case c = GetParam();
  const std::vector<double> values = spectrum(c.count, c.value);
  const Matrix matrix = with_spectrum(c.rows, c.columns, values);
  const TruncatedSvd svd = truncated_svd(matrix.view(), c.rank, {.name = c.name, .threads = 2});
  ASSERT_EQ(svd.rank, std::min({c.rank, c.rows, c.columns}));
  expect_orthonormal(svd, c.rows, c.columns);
  const double size = std::sqrt(squared_norm(matrix.view(), 1));
  EXPECT_NEAR(size, tail(values, 0), 1e-5 * size);
  const double error = residual(matrix, svd), best = tail(values, svd.rank);
  EXPECT_LE(error, 1.01 * best + 3e-6 * size);
  EXPECT_GE(error, 0.999 * best - 3e-6 * size);
  for (size_t i = 0; i < svd.values.size(); i++)
    EXPECT_NEAR(svd.values[i], i < values.size() ? values[i] : 0, c.value_error * values[0]) << i;
}

INSTANTIATE_TEST_SUITE_P(
    Of, Spectrum,
    ::testing::Values(
        Case{"wide", 20, 700, 6, 20, [](double i) { return 1 / (1 + i); }},
        Case{"tall", 700, 20, 6, 20, [](double i) { return 1 / (1 + i); }},
        Case{"full rank", 30, 40, 30, 30, [](double i) { return 3 - i / 20; }},
        Case{"rank beyond the side", 12, 40, 64, 12, [](double i) { return 1 + i * 0; }},
        Case{"one row", 1, 300, 4, 1, [](double) { return 5.0; }},
        Case{"rank 4 of large", 400, 600, 4, 4, [](double i) { return 4 - i; }},
        Case{"rank 4, 8 asked for", 600, 400, 8, 4, [](double i) { return 4 - i; }},
        Case{"power law", 500, 300, 16, 300, [](double i) { return std::pow(1 + i, -0.5); }, 5e-3},
        Case{"exponential", 300, 500, 16, 300, [](double i) { return std::pow(0.93, i); }, 1e-3},
        Case{"a step", 300, 500, 8, 300, [](double i) { return i < 6 ? 10.0 : 1.0; }, 0.03},
        Case{"flat", 500, 300, 32, 300, [](double i) { return 1 - i / 3000; }, 0.05},
        Case{"small numbers", 300, 400, 8, 50, [](double i) { return 1e-7 * std::pow(0.9, i); }, 1e-3}),
    [](const auto& row) {
      std::string name = row.param.name;
      std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
      return name;
    });

TEST(TruncatedSvd, ThreadsSeedsAndNames) {
  const Matrix matrix = random_matrix(700, 400, "noise");
  const auto run = [&](SvdOptions options) { return truncated_svd(matrix.view(), 5, options); };
  const TruncatedSvd one = run({.seed = 1, .name = "a", .threads = 1});
  const TruncatedSvd three = run({.seed = 1, .name = "a", .threads = 3});
  EXPECT_EQ(one.left, three.left);
  EXPECT_EQ(one.values, three.values);
  EXPECT_EQ(one.right, three.right);
  EXPECT_NE(one.left, run({.seed = 2, .name = "a"}).left);
  EXPECT_NE(one.left, run({.seed = 1, .name = "b"}).left);
  EXPECT_EQ(squared_norm(matrix.view(), 1), squared_norm(matrix.view(), 3));
}

TEST(TruncatedSvd, Zeros) {
  for (const int64_t side : {10, 300}) {
    const Matrix matrix = {side, 300, std::vector<float>(static_cast<size_t>(side * 300))};
    const TruncatedSvd svd = truncated_svd(matrix.view(), 3, {});
    EXPECT_EQ(svd.values, std::vector<float>(3));
    expect_orthonormal(svd, side, 300);
  }
}

TEST(TruncatedSvd, Residual) {
  const Matrix matrix = random_matrix(300, 7, "matrix"), left = random_matrix(300, 2, "left"),
               right = random_matrix(2, 7, "right");
  double expected = 0;
  for (int64_t i = 0; i < 300; i++)
    for (int64_t j = 0; j < 7; j++) {
      double value = matrix.at(i, j);
      for (int64_t k = 0; k < 2; k++) value -= double(left.at(i, k)) * right.at(k, j);
      expected += value * value;
    }
  EXPECT_NEAR(squared_residual(matrix.view(), left.values, right.values, 2), expected, 1e-5 * expected);
}

TEST(TruncatedSvd, RefusesWhatHasNone) {
  const std::vector<float> six(6, 1.0f);
  EXPECT_THROW(truncated_svd({{}, 0, 5}, 1, {}), Error);
  EXPECT_THROW(truncated_svd({{}, 5, 0}, 1, {}), Error);
  EXPECT_THROW(truncated_svd({six, 2, 2}, 1, {}), Error);
  EXPECT_THROW(truncated_svd({six, 2, 3}, 0, {}), Error);
  for (const float bad : {NAN, INFINITY}) {
    std::vector<float> values(300 * 400, 1.0f);
    values[70'000] = bad;
    EXPECT_THROW(truncated_svd({values, 300, 400}, 4, {}), Error);
    EXPECT_THROW(truncated_svd({std::span(values).last(60'000), 200, 300}, 4, {}), Error);
  }
}

TEST(TruncatedSvd, LargeValuesDoNotOverflow) {
  Matrix matrix = random_matrix(300, 400, "large");
  for (float& value : matrix.values) value *= 1e15f;
  const TruncatedSvd svd = truncated_svd(matrix.view(), 4, {});
  EXPECT_TRUE(std::isfinite(svd.values[0]) && svd.values[0] > 1e15f);
}

}  // namespace
}  // namespace moerge
