#include "moerge/tensor/truncated_svd.h"

#include <Eigen/Core>
#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <functional>

#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"
#include "moerge/base/parallel.h"
#include "moerge/base/random.h"

namespace moerge {
namespace {

// A short side up to which the exact way is quick (a tenth of a second on one core).
constexpr int64_t kShortSide = 256;
// Columns of the range finder beyond the rank: Halko et al. advise 5 to 10, and more for a slow decay.
constexpr int64_t kMinOversampling = 10;
// Passes stop when one gains less than this share of the squared error that is left (half of that of the
// error), or of the whole, where float32 cannot tell any more.
constexpr double kGain = 1e-3, kFloor = 1e-8;
constexpr int kMaxPasses = 16;
constexpr int64_t kTile = 256;  // rows or columns of a work item; fixed, so that threads decide no bits

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Source = Eigen::Map<const RowMajor>;
using Factor = Eigen::MatrixXf;  // few columns, column-major

Source map(const MatrixView& matrix) { return {matrix.values.data(), matrix.rows, matrix.columns}; }

void for_tiles(int64_t size, int threads, const std::function<void(int64_t first, int64_t count)>& work) {
  parallel_for(static_cast<size_t>((size + kTile - 1) / kTile), threads, [&](size_t item) {
    check_interrupted();
    const int64_t first = static_cast<int64_t>(item) * kTile;
    work(first, std::min(kTile, size - first));
  });
}

// The sum over tiles of rows, in their order.
double sum_tiles(int64_t rows, int threads, const std::function<double(int64_t first, int64_t count)>& term) {
  std::vector<double> sums(static_cast<size_t>((rows + kTile - 1) / kTile));
  for_tiles(rows, threads, [&](int64_t first, int64_t count) {
    sums[static_cast<size_t>(first / kTile)] = term(first, count);
  });
  double out = 0;
  for (const double sum : sums) out += sum;
  return out;
}

Factor times(const Source& matrix, const Factor& right, int threads) {
  Factor out(matrix.rows(), right.cols());
  for_tiles(matrix.rows(), threads, [&](int64_t first, int64_t count) {
    out.middleRows(first, count).noalias() = matrix.middleRows(first, count) * right;
  });
  return out;
}

Factor transposed_times(const Source& matrix, const Factor& right, int threads) {
  Factor out(matrix.cols(), right.cols());
  for_tiles(matrix.cols(), threads, [&](int64_t first, int64_t count) {
    out.middleRows(first, count).noalias() = matrix.middleCols(first, count).transpose() * right;
  });
  return out;
}

// Orthonormal columns that span those of `tall`, also where these depend on each other; and R of tall = Q R.
struct Orthonormal {
  Factor q;
  Eigen::MatrixXd r;
};

Orthonormal orthonormalise(Factor tall) {
  check_interrupted();
  const int64_t columns = tall.cols();
  Eigen::HouseholderQR<Eigen::Ref<Factor>> qr(tall);
  Orthonormal out;
  out.r = tall.topRows(columns).triangularView<Eigen::Upper>().toDenseMatrix().cast<double>();
  out.q = qr.householderQ() * Factor::Identity(tall.rows(), columns);
  return out;
}

Factor random_factor(int64_t rows, int64_t columns, const SvdOptions& options) {
  const RandomStream stream(options.seed, "svd " + options.name);
  Factor out(rows, columns);
  for_tiles(rows, options.threads, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; i++)
      for (int64_t j = 0; j < columns; j++) out(i, j) = stream.normal(static_cast<uint64_t>(i * columns + j));
  });
  return out;
}

using SmallSvd = Eigen::BDCSVD<Eigen::MatrixXd>;

SmallSvd small_svd(const Eigen::MatrixXd& square, unsigned parts, const SvdOptions& options) {
  check_interrupted();
  SmallSvd svd(square, parts);
  if (svd.info() != Eigen::Success)
    fail(ErrorKind::input, "{}: its singular value decomposition failed", options.name);
  return svd;
}

// Row-major, as the result wants it.
std::vector<float> take(const Eigen::Ref<const Factor>& matrix) {
  std::vector<float> out(static_cast<size_t>(matrix.size()));
  Eigen::Map<RowMajor>(out.data(), matrix.rows(), matrix.cols()) = matrix;
  return out;
}

// Of left r right^T, r being square and the others' columns orthonormal; left null: the identity.
TruncatedSvd finish(const Factor* left, const Eigen::MatrixXd& r, const Factor* right, int64_t rank,
                    const SvdOptions& options) {
  const SmallSvd svd = small_svd(r, Eigen::ComputeThinU | Eigen::ComputeThinV, options);
  const Factor u = svd.matrixU().leftCols(rank).cast<float>(), v = svd.matrixV().leftCols(rank).cast<float>();
  TruncatedSvd out;
  out.rank = rank;
  out.left = take(left ? Factor(*left * u) : u);
  out.right = take((right ? Factor(*right * v) : v).transpose());
  for (int64_t i = 0; i < rank; i++)
    out.values.push_back(static_cast<float>(std::max(0.0, svd.singularValues()[i])));
  return out;
}

TruncatedSvd exact(const Source& matrix, int64_t rank, const SvdOptions& options) {
  if (matrix.rows() >= matrix.cols()) {
    const Orthonormal qr = orthonormalise(matrix);
    return finish(&qr.q, qr.r, nullptr, rank, options);
  }
  const Orthonormal qr = orthonormalise(matrix.transpose());
  return finish(nullptr, qr.r.transpose(), &qr.q, rank, options);
}

double energy(const Eigen::MatrixXd& r, int64_t rank, const SvdOptions& options) {
  return small_svd(r, 0, options).singularValues().head(rank).squaredNorm();
}

// left spans what the matrix makes of the last look's right, and matrix^T left = right r: so
// left left^T matrix = left r^T right^T.
TruncatedSvd randomised(const Source& matrix, int64_t rank, int64_t width, double total,
                        const SvdOptions& options) {
  const int threads = options.threads;
  Factor left = orthonormalise(times(matrix, random_factor(matrix.cols(), width, options), threads)).q;
  Orthonormal right = orthonormalise(transposed_times(matrix, left, threads));
  double found = energy(right.r, rank, options);
  for (int pass = 1; pass < kMaxPasses; pass++) {
    left = orthonormalise(times(matrix, right.q, threads)).q;
    right = orthonormalise(transposed_times(matrix, left, threads));
    const double now = energy(right.r, rank, options);
    const double gain = now - found;
    found = now;
    if (gain <= std::max(kGain * (total - now), kFloor * total)) break;
  }
  return finish(&left, right.r.transpose(), &right.q, rank, options);
}

int64_t width_for(int64_t rank) { return rank + std::max(kMinOversampling, rank / 4); }

bool is_exact(int64_t rows, int64_t columns, int64_t rank) {
  const int64_t side = std::min(rows, columns);
  return side <= kShortSide || 4 * width_for(rank) >= 3 * side;
}

void check(const MatrixView& matrix, int64_t rank, const SvdOptions& options) {
  if (matrix.rows < 1 || matrix.columns < 1 || std::ssize(matrix.values) != matrix.rows * matrix.columns)
    fail(ErrorKind::input, "{}: a matrix of {} by {} has no singular values", options.name, matrix.rows,
         matrix.columns);
  if (rank < 1)
    fail(ErrorKind::input, "{}: a matrix of rank {} is asked for, expected 1 or more", options.name, rank);
}

}  // namespace

TruncatedSvd truncated_svd(const MatrixView& matrix, int64_t rank, const SvdOptions& options) {
  check(matrix, rank, options);
  const int64_t wanted = std::min({rank, matrix.rows, matrix.columns});
  const double total = squared_norm(matrix, options.threads);
  if (!std::isfinite(total)) fail(ErrorKind::input, "{}: it holds values that are not finite", options.name);
  if (is_exact(matrix.rows, matrix.columns, wanted)) return exact(map(matrix), wanted, options);
  return randomised(map(matrix), wanted, width_for(wanted), total, options);
}

int64_t svd_bytes(int64_t rows, int64_t columns, int64_t rank) {
  const int64_t side = std::min(rows, columns), longer = std::max(rows, columns);
  const int64_t wanted = std::min(rank, side);
  const int64_t result = 4 * wanted * (rows + columns);
  if (is_exact(rows, columns, wanted))
    return result + 3 * 4 * side * longer + 6 * 8 * side * side;  // Householder's vectors, Q, U or V of R
  const int64_t width = width_for(wanted);
  return result + 6 * 4 * width * longer + 6 * 8 * width * width;
}

double squared_norm(const MatrixView& matrix, int threads) {
  const Source source = map(matrix);
  return sum_tiles(matrix.rows, threads, [&](int64_t first, int64_t count) {
    return source.middleRows(first, count).cast<double>().squaredNorm();
  });
}

double squared_residual(const MatrixView& matrix, std::span<const float> left, std::span<const float> right,
                        int threads) {
  const int64_t rank = std::ssize(left) / matrix.rows;
  const Source source = map(matrix), l(left.data(), matrix.rows, rank), r(right.data(), rank, matrix.columns);
  return sum_tiles(matrix.rows, threads, [&](int64_t first, int64_t count) {
    RowMajor rest = source.middleRows(first, count);
    rest.noalias() -= l.middleRows(first, count) * r;
    return rest.cast<double>().squaredNorm();
  });
}

}  // namespace moerge
