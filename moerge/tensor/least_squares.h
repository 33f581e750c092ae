#pragma once
// Sums over many rows of float32 and the linear systems that they make, for fits whose rows stream by.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace moerge {

/// Rows of float32, [count, columns], with a weight each.
struct WeightedRows {
  std::span<const float> values;
  std::span<const float> weights;  // [count]
  int64_t columns;

  int64_t count() const { return static_cast<int64_t>(weights.size()); }
};

/// The sum over rows x of weight * x xT, float64 [columns, columns], symmetric. Products and sums of 256 rows
/// are float32, sums of those float64. The same bits for any number of threads.
std::vector<double> second_moment(const WeightedRows& rows, int threads);

/// out[r, k] = sum over columns of x[r, column] * matrix[k, column]; float32.
void multiply_rows(std::span<const float> rows, int64_t columns, std::span<const float> matrix,
                   std::span<float> out, int threads);

/// The sum over rows x of factors[row, k] * x, float64 [outputs, columns]. The same bits for any number of
/// threads.
std::vector<double> weighted_sums(std::span<const float> rows, int64_t columns,
                                  std::span<const float> factors, int64_t outputs, int threads);

/// A symmetric positive definite system, factored once (LLT in float64).
class SymmetricSystem {
 public:
  /// `matrix`: float64 [size, size], given up. Throws input when it is not positive definite (or holds
  /// NaN).
  explicit SymmetricSystem(std::vector<double> matrix);
  ~SymmetricSystem();
  SymmetricSystem(const SymmetricSystem&) = delete;
  SymmetricSystem& operator=(const SymmetricSystem&) = delete;

  /// Replaces each right side, a row of [count, size], by its solution.
  void solve(std::span<double> sides) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moerge
