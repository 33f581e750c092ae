#include "moerge/tensor/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "moerge/tensor/tensor.h"

namespace moerge {
namespace {

// The definition of a half: sign, 5 exponent bits with bias 15, 10 fraction bits.
double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return exponent == 0 ? sign * std::ldexp(fraction, -24) : sign * std::ldexp(1024 + fraction, exponent - 25);
}

TEST(Convert, EveryHalfReadsAsItsDefinition) {
  for (int bits = 0; bits < 65536; bits++) {
    const double expected = half_value(static_cast<uint16_t>(bits));
    const float found = f16_to_f32(static_cast<uint16_t>(bits));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << bits;
    } else {
      ASSERT_EQ(found, expected) << bits;
      ASSERT_EQ(f32_to_f16(found), bits);
    }
  }
}

TEST(Convert, HalvesRoundToNearestEven) {
  for (int bits = 0; bits < 0x7c00; bits++) {
    const double low = half_value(static_cast<uint16_t>(bits));
    const double high = bits == 0x7bff ? 65536.0 : half_value(static_cast<uint16_t>(bits + 1));
    const auto middle = static_cast<float>((low + high) / 2);  // exact: 11 + 1 bits fit a float
    const int even = bits % 2 == 0 ? bits : bits + 1;
    ASSERT_EQ(f32_to_f16(middle), even) << bits;
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, 0.0f)), bits) << bits;
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, INFINITY)), bits + 1) << bits;
    ASSERT_EQ(f32_to_f16(-middle), even | 0x8000) << bits;
  }
  EXPECT_EQ(f32_to_f16(1e30f), 0x7c00);
  EXPECT_EQ(f32_to_f16(INFINITY), 0x7c00);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(NAN))));
}

TEST(Convert, Bf16RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7f80; bits++) {
    const float low = bf16_to_f32(static_cast<uint16_t>(bits));
    const float middle = std::bit_cast<float>(bits << 16 | 0x8000u);
    ASSERT_EQ(f32_to_bf16(low), bits);
    ASSERT_EQ(f32_to_bf16(middle), bits % 2 == 0 ? bits : bits + 1);
    ASSERT_EQ(f32_to_bf16(std::bit_cast<float>(bits << 16 | 0x7fffu)), bits);
    ASSERT_EQ(f32_to_bf16(std::bit_cast<float>(bits << 16 | 0x8001u)), bits + 1);
  }
  EXPECT_EQ(f32_to_bf16(INFINITY), 0x7f80);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(NAN))));
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(Convert, UnalignedBuffersAndAllPairs) {
  std::vector<float> values;
  for (int i = 0; i < 10007; i++) values.push_back(std::sin(static_cast<float>(i)) * 100);
  for (DType from : {DType::f64, DType::f32, DType::f16, DType::bf16})
    for (DType to : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
      const auto in = static_cast<size_t>(info(from).bytes), out = static_cast<size_t>(info(to).bytes);
      std::vector<std::byte> source(values.size() * in + 1), target(values.size() * out + 1);
      from_f32(values, from, std::span(source).subspan(1));
      convert(from, std::span(source).subspan(1), to, std::span(target).subspan(1));
      std::vector<float> found(values.size());
      to_f32(to, std::span(target).subspan(1), found);
      for (size_t i = 0; i < values.size(); i++)
        ASSERT_NEAR(found[i], values[i], std::abs(values[i]) * 0.008);
    }
}

TEST(DType, NamesAreFoundInEverySpelling) {
  for (const DTypeInfo& row : dtype_table()) {
    if (!row.safetensors.empty()) EXPECT_EQ(find_dtype(row.safetensors)->dtype, row.dtype);
    if (!row.torch.empty()) EXPECT_EQ(find_dtype(row.torch)->dtype, row.dtype);
    if (row.gguf_id >= 0) EXPECT_EQ(find_gguf_dtype(row.gguf_id)->dtype, row.dtype);
    EXPECT_FALSE(row.name().empty());
  }
  EXPECT_EQ(find_dtype(""), nullptr);
  EXPECT_EQ(find_dtype("torch.bfloat16")->dtype, DType::bf16);
  EXPECT_EQ(find_dtype("fp16")->dtype, DType::f16);
  EXPECT_EQ(find_dtype("float17"), nullptr);
}

TEST(Shape, CountsAreChecked) {
  EXPECT_EQ(checked_count({}), 1);
  EXPECT_EQ(checked_count({3, 4}), 12);
  EXPECT_EQ(checked_count({0, INT64_MAX, 2}), 0);
  EXPECT_FALSE(checked_count({-1, 4}));
  EXPECT_FALSE(checked_count({INT64_MAX, 2}));
  EXPECT_FALSE(checked_count({INT64_MAX / 2}));
}

}  // namespace
}  // namespace moerge
