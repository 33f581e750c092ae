#pragma once
// The leading part of a matrix's singular value decomposition: the matrix of low rank that is closest to it.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace moerge {

/// A float32 matrix, row-major.
struct MatrixView {
  std::span<const float> values;
  int64_t rows, columns;
};

/// U diag(values) V, float32.
struct TruncatedSvd {
  int64_t rank = 0;           // what was asked for, at most the shorter side
  std::vector<float> left;    // U [rows, rank], its columns orthonormal
  std::vector<float> values;  // [rank], falling
  std::vector<float> right;   // V [rank, columns], its rows orthonormal
};

struct SvdOptions {
  uint64_t seed = 0;
  std::string name = {};  // of the matrix: of its random stream, and for messages
  int threads = 1;
};

/// Exact (Householder QR, then divide and conquer in float64) for matrices with a short side and for ranks
/// that are most of it. Else a randomised range finder (Halko, Martinsson, Tropp, SIAM Review 53, 2011,
/// arXiv 0909.4061, algorithms 4.4 and 5.1), whose passes go on until another one gains less than a
/// thousandth of the squared error. The same bits for any number of threads. Memory beside the matrix and
/// the result: one more of it where the way is exact, else six factors of its longer side.
/// Throws input for a side or rank below 1 and for values that are not finite.
TruncatedSvd truncated_svd(const MatrixView& matrix, int64_t rank, const SvdOptions& options);

/// Bytes that truncated_svd() holds at a time beside the matrix itself, its result included.
int64_t svd_bytes(int64_t rows, int64_t columns, int64_t rank);

/// The squared Frobenius norm, float64. The same bits for any number of threads.
double squared_norm(const MatrixView& matrix, int threads);
/// That of matrix - left right, with left [rows, rank] and right [rank, columns], row-major.
double squared_residual(const MatrixView& matrix, std::span<const float> left, std::span<const float> right,
                        int threads);

}  // namespace moerge
