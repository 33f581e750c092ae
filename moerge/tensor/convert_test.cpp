#include "moerge/tensor/convert.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/tensor/convert_kernels.h"
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

// What torch.float8_e4m3fn holds from 0x00 to 0x7e.
constexpr double kEightBits[] = {
    0.0,      0.001953125, 0.00390625, 0.005859375, 0.0078125, 0.009765625, 0.01171875, 0.013671875,
    0.015625, 0.017578125, 0.01953125, 0.021484375, 0.0234375, 0.025390625, 0.02734375, 0.029296875,
    0.03125,  0.03515625,  0.0390625,  0.04296875,  0.046875,  0.05078125,  0.0546875,  0.05859375,
    0.0625,   0.0703125,   0.078125,   0.0859375,   0.09375,   0.1015625,   0.109375,   0.1171875,
    0.125,    0.140625,    0.15625,    0.171875,    0.1875,    0.203125,    0.21875,    0.234375,
    0.25,     0.28125,     0.3125,     0.34375,     0.375,     0.40625,     0.4375,     0.46875,
    0.5,      0.5625,      0.625,      0.6875,      0.75,      0.8125,      0.875,      0.9375,
    1.0,      1.125,       1.25,       1.375,       1.5,       1.625,       1.75,       1.875,
    2.0,      2.25,        2.5,        2.75,        3.0,       3.25,        3.5,        3.75,
    4.0,      4.5,         5.0,        5.5,         6.0,       6.5,         7.0,        7.5,
    8.0,      9.0,         10.0,       11.0,        12.0,      13.0,        14.0,       15.0,
    16.0,     18.0,        20.0,       22.0,        24.0,      26.0,        28.0,       30.0,
    32.0,     36.0,        40.0,       44.0,        48.0,      52.0,        56.0,       60.0,
    64.0,     72.0,        80.0,       88.0,        96.0,      104.0,       112.0,      120.0,
    128.0,    144.0,       160.0,      176.0,       192.0,     208.0,       224.0,      240.0,
    256.0,    288.0,       320.0,      352.0,       384.0,     416.0,       448.0,
};

TEST(Convert, EightBitsReadAsTorchReadsThem) {
  ASSERT_EQ(std::size(kEightBits), 127u);
  for (int bits = 0; bits < 256; bits++) {
    const int magnitude = bits & 0x7f;
    const float found = f8_e4m3_to_f32(static_cast<uint8_t>(bits));
    if (magnitude == 0x7f) {
      EXPECT_TRUE(std::isnan(found));
      continue;
    }
    EXPECT_EQ(std::abs(found), kEightBits[magnitude]) << bits;
    EXPECT_EQ(std::signbit(found), bits > 0x7f) << bits;
  }
}

TEST(Convert, EightBitTypesIntoFloats) {
  std::vector<std::byte> bytes(256);
  for (size_t i = 0; i < bytes.size(); i++) bytes[i] = static_cast<std::byte>(i);
  std::vector<float> narrow(256), wide(256);
  to_f32(DType::f8_e4m3, bytes, narrow);
  to_f32(DType::f8_e5m2, bytes, wide);
  for (size_t i = 0; i < bytes.size(); i++) {
    const float expected = f8_e4m3_to_f32(static_cast<uint8_t>(i));
    EXPECT_TRUE(narrow[i] == expected || (std::isnan(narrow[i]) && std::isnan(expected))) << i;
    const double half = half_value(static_cast<uint16_t>(i << 8));  // its upper byte
    EXPECT_TRUE(wide[i] == half || (std::isnan(wide[i]) && std::isnan(half))) << i;
  }
  EXPECT_EQ(wide[0x7b], 57344.0f);
  EXPECT_EQ(wide[0x01], 0x1p-16f);
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

// One element by the functions of convert.h, which the tests above hold to the types' definitions.
float read_one(DType dtype, const std::byte* bytes) {
  const auto as = [&]<typename T>(T value) {
    std::memcpy(&value, bytes, sizeof value);
    return value;
  };
  switch (dtype) {
    case DType::f64:
      return static_cast<float>(as(double{}));
    case DType::f32:
      return as(float{});
    case DType::f16:
      return f16_to_f32(as(uint16_t{}));
    case DType::bf16:
      return bf16_to_f32(as(uint16_t{}));
    case DType::f8_e4m3:
      return f8_e4m3_to_f32(as(uint8_t{}));
    default:
      return f8_e5m2_to_f32(as(uint8_t{}));
  }
}
void write_one(DType dtype, float value, std::byte* bytes) {
  const auto put = [&](auto bits) { std::memcpy(bytes, &bits, sizeof bits); };
  switch (dtype) {
    case DType::f64:
      return put(static_cast<double>(value));
    case DType::f32:
      return put(value);
    case DType::f16:
      return put(f32_to_f16(value));
    default:
      return put(f32_to_bf16(value));
  }
}

// All values of a type of at most 16 bits; edges and random bits of a longer one.
std::vector<std::byte> many_values(DType dtype) {
  const auto size = static_cast<size_t>(info(dtype).bytes);
  std::vector<std::byte> bytes;
  const auto add = [&](const auto& value) {
    const auto* begin = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), begin, begin + size);
  };
  if (size <= 2) {
    for (uint32_t bits = 0; bits < 1u << 8 * size; bits++) add(bits);  // little endian
    return bytes;
  }
  std::mt19937 random(9);
  std::vector<uint32_t> patterns;
  for (uint32_t upper = 0; upper < 1u << 16; upper++)  // every bf16, and what rounds up and down to it
    for (uint32_t lower : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      patterns.push_back(upper << 16 | lower);
  for (uint32_t half = 0; half < 0x7c00; half++) {  // the same of float16
    const auto value =
        static_cast<float>((half_value(static_cast<uint16_t>(half)) +
                            (half == 0x7bff ? 65536.0 : half_value(static_cast<uint16_t>(half + 1)))) /
                           2);
    for (float near : {std::nextafter(value, -1.0f), value, std::nextafter(value, 1e9f)})
      for (float edge : {near, -near}) patterns.push_back(std::bit_cast<uint32_t>(edge));
  }
  for (int i = 0; i < 300'001; i++) patterns.push_back(static_cast<uint32_t>(random()));
  for (uint32_t pattern : patterns)
    if (dtype == DType::f32)
      add(pattern);
    else
      add(static_cast<double>(std::bit_cast<float>(pattern)));
  return bytes;
}

TEST(Convert, EveryInstructionSetHasTheSameResults) {
  ASSERT_TRUE(converter_sets().back().runs_here());
  for (DType from : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::f8_e4m3, DType::f8_e5m2})
    for (DType to : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
      const auto in = static_cast<size_t>(info(from).bytes), out = static_cast<size_t>(info(to).bytes);
      const std::vector<std::byte> values = many_values(from);
      const size_t count = values.size() / in;
      std::vector<std::byte> expected(count * out);
      for (size_t i = 0; i < count; i++)
        write_one(to, read_one(from, values.data() + i * in), expected.data() + i * out);
      for (const ConverterSet& set : converter_sets()) {
        SCOPED_TRACE(std::string(set.name) + " " + std::string(info(from).name()) + " " +
                     std::string(info(to).name()));
        const Converter converter = set.find(from, to);
        ASSERT_EQ(converter == nullptr, from == to);
        if (from == to || !set.runs_here()) continue;
        // Whole vectors and what is left over, at addresses of any kind; nothing around the target is
        // written.
        const auto check = [&](size_t first, size_t n, size_t shift) {
          constexpr auto untouched = std::byte{0xa5};
          std::vector<std::byte> source(shift + n * in), target(shift + n * out + 16, untouched);
          std::copy_n(values.data() + first * in, n * in, source.data() + shift);
          converter(source.data() + shift, target.data() + shift, n);
          const auto begin = target.begin() + static_cast<ptrdiff_t>(shift);
          const auto end = begin + static_cast<ptrdiff_t>(n * out);
          ASSERT_TRUE(std::equal(begin, end, expected.begin() + static_cast<ptrdiff_t>(first * out)))
              << n << " elements from number " << first;
          ASSERT_EQ(std::count(target.begin(), begin, untouched), static_cast<ptrdiff_t>(shift));
          ASSERT_EQ(std::count(end, target.end(), untouched), 16);
        };
        check(0, count, 0);
        check(0, count, 1);
        for (size_t n = 0; n < 100; n++) check(count - 2 * n, n, n % 7);
      }
    }
}

TEST(Convert, OtherTypesAreRefused) {
  std::vector<std::byte> bytes(64);
  std::vector<float> values(16);
  EXPECT_THROW(to_f32(DType::i32, bytes, values), Error);
  EXPECT_THROW(from_f32(values, DType::f8_e4m3, std::span(bytes).first(16)), Error);
  EXPECT_THROW(convert(DType::bf16, std::span(bytes).first(32), DType::q8_0, std::span(bytes).first(34)),
               Error);
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
