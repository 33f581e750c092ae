#include "moerge/tensor/quantize.h"

#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

constexpr int64_t kColumns = 512, kRows = 8;

std::vector<float> waves() {
  std::vector<float> values;
  for (int i = 0; i < kColumns * kRows; i++) values.push_back(std::sin(static_cast<float>(i) * 1.7f));
  return values;
}

// The table repeats numbers of ggml; this test is why it may.
TEST(Quantize, TheTableAgreesWithGgml) {
  for (const DTypeInfo& row : dtype_table()) {
    if (row.gguf_id < 0) continue;
    const ggml_type_traits& traits = *ggml_get_type_traits(static_cast<ggml_type>(row.gguf_id));
    EXPECT_EQ(row.block, traits.blck_size) << row.gguf;
    EXPECT_EQ(static_cast<size_t>(row.bytes), traits.type_size) << row.gguf;
    std::string name(row.gguf);
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    std::string theirs = traits.type_name;
    for (char& c : theirs) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    EXPECT_EQ(name, theirs);
  }
}

TEST(Quantize, EveryTypeHoldsTheValuesRoughlyAndAtAnyAddress) {
  const std::vector<float> values = waves(), importance(kColumns, 1.0f);
  for (const DTypeInfo& row : dtype_table()) {
    if (!is_quantized(row.dtype)) continue;
    std::vector<std::byte> bytes(static_cast<size_t>(byte_size(row.dtype, kColumns * kRows)) + 1);
    quantize_rows(row.dtype, values, kColumns, importance, std::span(bytes).first(bytes.size() - 1));
    std::vector<float> back(values.size()), shifted(values.size());
    to_f32(row.dtype, std::span(bytes).first(bytes.size() - 1), back);
    std::vector<std::byte> odd(bytes.size() + 1);
    std::copy(bytes.begin(), bytes.end() - 1, odd.begin() + 1);
    to_f32(row.dtype, std::span(odd).subspan(1, bytes.size() - 1), shifted);
    EXPECT_EQ(back, shifted) << row.gguf;
    double product = 0, norm = 0, back_norm = 0;
    for (size_t i = 0; i < values.size(); i++) {
      product += values[i] * back[i];
      norm += values[i] * values[i];
      back_norm += back[i] * back[i];
    }
    EXPECT_GT(product / std::sqrt(norm * back_norm), 0.75) << row.gguf;
  }
}

TEST(Quantize, RowsDoNotDependOnTheirNeighbours) {
  const std::vector<float> values = waves();
  std::vector<std::byte> all(static_cast<size_t>(byte_size(DType::q4_k, kColumns * kRows)));
  quantize_rows(DType::q4_k, values, kColumns, {}, all);
  const auto row_bytes = static_cast<size_t>(byte_size(DType::q4_k, kColumns));
  for (size_t row = 0; row < kRows; row++) {
    std::vector<std::byte> one(row_bytes);
    quantize_rows(DType::q4_k, std::span(values).subspan(row * kColumns, kColumns), kColumns, {}, one);
    EXPECT_TRUE(
        std::equal(one.begin(), one.end(), all.begin() + static_cast<std::ptrdiff_t>(row * row_bytes)));
  }
}

TEST(Quantize, RefusesScalesThatAreNotFinite) {
  std::vector<float> values = waves();
  values[5] = INFINITY;
  std::vector<std::byte> bytes(static_cast<size_t>(byte_size(DType::q8_0, kColumns * kRows)));
  EXPECT_THROW(quantize_rows(DType::q8_0, values, kColumns, {}, bytes), Error);
}

}  // namespace
}  // namespace moerge
