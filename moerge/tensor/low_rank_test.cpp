#include "moerge/tensor/low_rank.h"

#include <gtest/gtest.h>

#include <cmath>

#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

std::vector<float> waves(size_t count, float step) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; i++) out[i] = std::sin(static_cast<float>(i) * step) * 0.3f;
  return out;
}

struct Sizes {
  size_t rows, rank, columns;
};

class LowRank : public ::testing::TestWithParam<Sizes> {};

// Each sum in rising order, every operation rounded: what the header promises, bit for bit.
TEST_P(LowRank, IsTheProductHoweverItIsCut) {
  const auto [rows, rank, columns] = GetParam();
  const std::vector<float> b = waves(rows * rank, 0.7f), base = waves(rows * columns, 0.11f);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    std::vector<float> a = waves(rank * columns, 0.31f);
    // One byte more in front: tensors of a file start anywhere.
    std::vector<std::byte> bytes(1 + static_cast<size_t>(byte_size(dtype, std::ssize(a))));
    const std::span<std::byte> stored = std::span(bytes).subspan(1);
    from_f32(a, dtype, stored);
    to_f32(dtype, stored, a);
    const TensorView view = {dtype, {static_cast<int64_t>(rank), static_cast<int64_t>(columns)}, stored};
    std::vector<float> all = base;
    add_low_rank(all, b, view, 0.75f);
    for (size_t r = 0; r < rows; r++)
      for (size_t c = 0; c < columns; c++) {
        volatile float sum = 0;  // no fused multiply-add
        for (size_t k = 0; k < rank; k++) {
          const volatile float product = b[r * rank + k] * a[k * columns + c];
          sum = sum + product;
        }
        const volatile float scaled = sum * 0.75f;
        ASSERT_EQ(all[r * columns + c], base[r * columns + c] + scaled) << r << " " << c;
      }
    for (size_t cut = 0; cut < rows; cut++) {
      std::vector<float> one(base.begin() + static_cast<std::ptrdiff_t>(cut * columns),
                             base.begin() + static_cast<std::ptrdiff_t>((cut + 1) * columns));
      add_low_rank(one, std::span(b).subspan(cut * rank, rank), view, 0.75f);
      ASSERT_EQ(one, std::vector<float>(all.begin() + static_cast<std::ptrdiff_t>(cut * columns),
                                        all.begin() + static_cast<std::ptrdiff_t>((cut + 1) * columns)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, LowRank,
                         ::testing::Values(Sizes{1, 1, 1}, Sizes{4, 8, 512}, Sizes{7, 3, 1000},
                                           Sizes{9, 64, 517}, Sizes{2, 600, 130}));

TEST(LowRank, OfNothingIsNothing) {
  std::vector<float> values = {1, 2};
  add_low_rank(values, {}, {DType::f32, {0, 2}, {}}, 1);
  EXPECT_EQ(values, (std::vector<float>{1, 2}));
}

}  // namespace
}  // namespace moerge
