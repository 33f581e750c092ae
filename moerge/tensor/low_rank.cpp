#include "moerge/tensor/low_rank.h"

#include <algorithm>
#include <array>
#include <cassert>

#include "moerge/tensor/convert.h"
#include "moerge/base/dispatch.h"

namespace moerge {
namespace {

constexpr size_t kTile = 32 * 1024;  // elements of a in float32 at a time: half of a second-level cache
constexpr size_t kMinWidth = 64, kMaxWidth = 512;
constexpr size_t kRows = 4;  // that share each element of a once it is loaded

using Sums = std::array<std::array<float, kMaxWidth>, kRows>;

MOERGE_DISPATCHED void multiply(const float* __restrict a, size_t rank, size_t width,
                                const float* __restrict b, float* __restrict s0, float* __restrict s1,
                                float* __restrict s2, float* __restrict s3) {
  for (size_t k = 0; k < rank; k++) {
    const float b0 = b[k], b1 = b[rank + k], b2 = b[2 * rank + k], b3 = b[3 * rank + k];
    const float* __restrict row = a + k * width;
    for (size_t c = 0; c < width; c++) {
      s0[c] += b0 * row[c];
      s1[c] += b1 * row[c];
      s2[c] += b2 * row[c];
      s3[c] += b3 * row[c];
    }
  }
}

MOERGE_DISPATCHED void add_scaled(float* __restrict values, const float* __restrict sums, size_t n,
                                  float scale) {
  for (size_t i = 0; i < n; i++) values[i] += sums[i] * scale;
}

}  // namespace

void add_low_rank(std::span<float> values, std::span<const float> b, const TensorView& a, float scale) {
  const auto rank = static_cast<size_t>(a.shape[0]), columns = static_cast<size_t>(a.shape[1]);
  if (rank == 0 || columns == 0) return;
  const size_t rows = b.size() / rank;
  assert(values.size() == rows * columns);
  const auto element = static_cast<size_t>(info(a.dtype).bytes);
  const size_t tile_width = std::clamp(kTile / rank, kMinWidth, kMaxWidth);
  std::vector<float> tile(rank * tile_width);
  std::vector<float> last(kRows * rank);  // rows that are no multiple of kRows, and zeros
  Sums sums;
  for (size_t column = 0; column < columns; column += tile_width) {
    const size_t width = std::min(tile_width, columns - column);
    for (size_t k = 0; k < rank; k++)
      to_f32(a.dtype, a.bytes.subspan((k * columns + column) * element, width * element),
             std::span(tile).subspan(k * width, width));
    for (size_t row = 0; row < rows; row += kRows) {
      const size_t count = std::min(kRows, rows - row);
      const float* factors = b.data() + row * rank;
      if (count < kRows) {
        std::copy_n(factors, count * rank, last.begin());
        factors = last.data();
      }
      for (auto& sum : sums) std::fill_n(sum.begin(), width, 0.0f);
      multiply(tile.data(), rank, width, factors, sums[0].data(), sums[1].data(), sums[2].data(),
               sums[3].data());
      for (size_t i = 0; i < count; i++)
        add_scaled(values.data() + (row + i) * columns + column, sums[i].data(), width, scale);
    }
  }
}

}  // namespace moerge
