#include "moerge/tensor/least_squares.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"
#include "moerge/base/parallel.h"

namespace moerge {
namespace {

constexpr int64_t kRowsAtOnce = 256;  // whose products are summed in float32
constexpr int64_t kTile = 256;        // columns of a work item

using FloatMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using DoubleMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using ConstFloats = Eigen::Map<const FloatMatrix>;
using Strided = Eigen::Map<const FloatMatrix, 0, Eigen::OuterStride<>>;

int64_t pieces(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

// Rows [first, first + count) of columns [column, column + width).
Strided block(std::span<const float> values, int64_t columns, int64_t first, int64_t count, int64_t column,
              int64_t width) {
  return {values.data() + first * columns + column, count, width, Eigen::OuterStride<>(columns)};
}

}  // namespace

std::vector<double> second_moment(const WeightedRows& rows, int threads) {
  const int64_t columns = rows.columns, tiles = pieces(columns, kTile);
  std::vector<double> out(static_cast<size_t>(columns * columns));
  Eigen::Map<DoubleMatrix> sum(out.data(), columns, columns);
  std::vector<std::pair<int64_t, int64_t>> items;  // of the lower triangle
  for (int64_t i = 0; i < tiles; i++)
    for (int64_t j = 0; j <= i; j++) items.emplace_back(i * kTile, j * kTile);
  parallel_for(items.size(), threads, [&](size_t item) {
    check_interrupted();
    const auto [top, left] = items[item];
    const int64_t height = std::min(kTile, columns - top), width = std::min(kTile, columns - left);
    FloatMatrix weighted(kRowsAtOnce, height), product(height, width);
    DoubleMatrix total = DoubleMatrix::Zero(height, width);
    for (int64_t first = 0; first < rows.count(); first += kRowsAtOnce) {
      const int64_t count = std::min(kRowsAtOnce, rows.count() - first);
      const Eigen::Map<const Eigen::VectorXf> weights(rows.weights.data() + first, count);
      weighted.topRows(count).noalias() =
          weights.asDiagonal() * block(rows.values, columns, first, count, top, height);
      product.noalias() =
          weighted.topRows(count).transpose() * block(rows.values, columns, first, count, left, width);
      total += product.cast<double>();
    }
    if (top == left) total = DoubleMatrix(total.selfadjointView<Eigen::Lower>());
    sum.block(top, left, height, width) = total;
    sum.block(left, top, width, height) = total.transpose();
  });
  return out;
}

void multiply_rows(std::span<const float> rows, int64_t columns, std::span<const float> matrix,
                   std::span<float> out, int threads) {
  const int64_t count = std::ssize(rows) / columns, outputs = std::ssize(matrix) / columns;
  const ConstFloats factor(matrix.data(), outputs, columns);
  parallel_for(static_cast<size_t>(pieces(count, kRowsAtOnce)), threads, [&](size_t item) {
    const int64_t first = static_cast<int64_t>(item) * kRowsAtOnce,
                  some = std::min(kRowsAtOnce, count - first);
    Eigen::Map<FloatMatrix>(out.data() + first * outputs, some, outputs).noalias() =
        ConstFloats(rows.data() + first * columns, some, columns) * factor.transpose();
  });
}

std::vector<double> weighted_sums(std::span<const float> rows, int64_t columns,
                                  std::span<const float> factors, int64_t outputs, int threads) {
  const int64_t count = std::ssize(rows) / columns;
  std::vector<double> out(static_cast<size_t>(outputs * columns));
  Eigen::Map<DoubleMatrix> sum(out.data(), outputs, columns);
  parallel_for(static_cast<size_t>(pieces(columns, kTile)), threads, [&](size_t item) {
    const int64_t left = static_cast<int64_t>(item) * kTile, width = std::min(kTile, columns - left);
    FloatMatrix product(outputs, width);
    for (int64_t first = 0; first < count; first += kRowsAtOnce) {
      const int64_t some = std::min(kRowsAtOnce, count - first);
      product.noalias() = ConstFloats(factors.data() + first * outputs, some, outputs).transpose() *
                          block(rows, columns, first, some, left, width);
      sum.middleCols(left, width) += product.cast<double>();
    }
  });
  return out;
}

struct SymmetricSystem::Impl {
  std::vector<double> matrix;
  int64_t size;
  Eigen::Map<DoubleMatrix> view;
  Eigen::LLT<Eigen::Ref<DoubleMatrix>> factor;  // in place

  explicit Impl(std::vector<double> given)
      : matrix(std::move(given)),
        size(static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(matrix.size()))))),
        view(matrix.data(), size, size),
        factor(view) {}
};

SymmetricSystem::SymmetricSystem(std::vector<double> matrix) {
  if (!std::ranges::all_of(matrix, [](double value) { return std::isfinite(value); }))
    fail(ErrorKind::input, "a system of equations holds infinite values or NaN");
  impl_ = std::make_unique<Impl>(std::move(matrix));
  if (impl_->factor.info() != Eigen::Success)
    fail(ErrorKind::input, "a system of equations has no unique solution");
}
SymmetricSystem::~SymmetricSystem() = default;

void SymmetricSystem::solve(std::span<double> sides) const {
  for (int64_t first = 0; first < std::ssize(sides); first += impl_->size) {
    Eigen::Map<Eigen::VectorXd> side(sides.data() + first, impl_->size);
    impl_->factor.solveInPlace(side);
  }
}

}  // namespace moerge
