#include "moerge/tensor/convert.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

#include "moerge/base/error.h"
#include "moerge/tensor/dispatch.h"
#include "moerge/tensor/quantize.h"

namespace moerge {
namespace {

constexpr size_t kChunk = 4096;  // elements converted through one buffer that stays in the first-level cache

// Elements are read and written with memcpy because a safetensors tensor may start at any byte.
template <typename T>
T load(const std::byte* bytes, size_t i) {
  T value;
  std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
  return value;
}
template <typename T>
void store(std::byte* bytes, size_t i, T value) {
  std::memcpy(bytes + i * sizeof(T), &value, sizeof(T));
}

MOERGE_DISPATCHED void read_bf16(const std::byte* bytes, float* values, size_t n) {
  for (size_t i = 0; i < n; i++) values[i] = bf16_to_f32(load<uint16_t>(bytes, i));
}
MOERGE_DISPATCHED void write_bf16(const float* values, std::byte* bytes, size_t n) {
  for (size_t i = 0; i < n; i++) store<uint16_t>(bytes, i, f32_to_bf16(values[i]));
}
MOERGE_DISPATCHED void read_f16(const std::byte* bytes, float* values, size_t n) {
  for (size_t i = 0; i < n; i++) values[i] = f16_to_f32(load<uint16_t>(bytes, i));
}
MOERGE_DISPATCHED void write_f16(const float* values, std::byte* bytes, size_t n) {
  for (size_t i = 0; i < n; i++) store<uint16_t>(bytes, i, f32_to_f16(values[i]));
}

MOERGE_DISPATCHED void read_f8_e4m3(const std::byte* bytes, float* values, size_t n) {
  for (size_t i = 0; i < n; i++) values[i] = f8_e4m3_to_f32(load<uint8_t>(bytes, i));
}
// The upper byte of a float16.
MOERGE_DISPATCHED void read_f8_e5m2(const std::byte* bytes, float* values, size_t n) {
  for (size_t i = 0; i < n; i++) values[i] = f16_to_f32(static_cast<uint16_t>(load<uint8_t>(bytes, i) << 8));
}

[[noreturn]] void not_a_float(DType dtype) {
  fail(ErrorKind::unsupported, "{} tensors cannot be converted", info(dtype).name());
}

}  // namespace

// Magic-number forms without branches, so that the loops above vectorise: shift the exponent into place,
// correct subnormals by one float subtraction (or addition, which rounds to nearest even by itself).
float f16_to_f32(uint16_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  const float normal = std::bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude >= (0x7c00u << 13) ? 0x7f800000u : 0u;  // infinity or not a number
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(normal) | special | sign);
}

// 4 bits of exponent with bias 7, no infinity, and one NaN of either sign.
float f8_e4m3_to_f32(uint8_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fu) << 20;
  const float number = std::bit_cast<float>(magnitude) * 0x1p120f;
  const uint32_t special = (bits & 0x7fu) == 0x7fu ? 0x7fc00000u : 0u;
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(number) | special | sign);
}

uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Subnormal results: adding 0.5 puts the half's last bit at the float's last bit.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // rounds to infinity
  half = magnitude > 0x7f800000u ? 0x7e00u : half;   // not a number
  return static_cast<uint16_t>(half | sign);
}

void to_f32(DType dtype, std::span<const std::byte> bytes, std::span<float> values) {
  const size_t n = values.size();
  assert(std::ssize(bytes) == byte_size(dtype, std::ssize(values)));
  switch (dtype) {
    case DType::f64:
      for (size_t i = 0; i < n; i++) values[i] = static_cast<float>(load<double>(bytes.data(), i));
      return;
    case DType::f32:
      std::memcpy(values.data(), bytes.data(), bytes.size());
      return;
    case DType::f16:
      return read_f16(bytes.data(), values.data(), n);
    case DType::bf16:
      return read_bf16(bytes.data(), values.data(), n);
    case DType::f8_e4m3:
      return read_f8_e4m3(bytes.data(), values.data(), n);
    case DType::f8_e5m2:
      return read_f8_e5m2(bytes.data(), values.data(), n);
    default:
      if (is_quantized(dtype)) return dequantize(dtype, bytes, values);
      not_a_float(dtype);
  }
}

void from_f32(std::span<const float> values, DType dtype, std::span<std::byte> bytes) {
  const size_t n = values.size();
  assert(std::ssize(bytes) == byte_size(dtype, std::ssize(values)));
  switch (dtype) {
    case DType::f64:
      for (size_t i = 0; i < n; i++) store<double>(bytes.data(), i, values[i]);
      return;
    case DType::f32:
      std::memcpy(bytes.data(), values.data(), bytes.size());
      return;
    case DType::f16:
      return write_f16(values.data(), bytes.data(), n);
    case DType::bf16:
      return write_bf16(values.data(), bytes.data(), n);
    default:
      not_a_float(dtype);
  }
}

void convert(DType from, std::span<const std::byte> source, DType to, std::span<std::byte> target) {
  if (from == to) {
    std::memcpy(target.data(), source.data(), target.size());
    return;
  }
  const auto bytes = [](DType dtype, size_t elements) {
    return static_cast<size_t>(byte_size(dtype, static_cast<int64_t>(elements)));
  };
  std::array<float, kChunk> buffer;  // a whole number of blocks of every type
  const size_t total = target.size() / static_cast<size_t>(info(to).bytes);
  for (size_t done = 0; done < total; done += kChunk) {
    const size_t n = std::min(kChunk, total - done);
    to_f32(from, source.subspan(bytes(from, done), bytes(from, n)), std::span(buffer).first(n));
    from_f32(std::span(buffer).first(n), to, target.subspan(bytes(to, done), bytes(to, n)));
  }
}

}  // namespace moerge
