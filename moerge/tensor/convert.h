#pragma once
// Element conversions between the float types, through float32, rounding to nearest even as PyTorch does.

#include <bit>
#include <cstdint>
#include <span>

#include "moerge/tensor/dtype.h"

namespace moerge {

inline float bf16_to_f32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;  // not a number
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Magic-number forms without branches, so that loops over them vectorise: shift the exponent into place,
// correct subnormals by one float subtraction (or addition, which rounds to nearest even by itself).
inline float f16_to_f32(uint16_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  const float normal = std::bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude >= (0x7c00u << 13) ? 0x7f800000u : 0u;  // infinity or not a number
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(normal) | special | sign);
}

// 4 bits of exponent with bias 7, no infinity, and one NaN of either sign.
inline float f8_e4m3_to_f32(uint8_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fu) << 20;
  const float number = std::bit_cast<float>(magnitude) * 0x1p120f;
  const uint32_t special = (bits & 0x7fu) == 0x7fu ? 0x7fc00000u : 0u;
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(number) | special | sign);
}

inline uint16_t f32_to_f16(float value) {
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

// The upper byte of a float16.
inline float f8_e5m2_to_f32(uint8_t bits) { return f16_to_f32(static_cast<uint16_t>(bits << 8)); }

/// Reads `values.size()` elements of a float type (those of 8 bits included), or whole blocks of a quantised
/// one, into float32.
void to_f32(DType dtype, std::span<const std::byte> bytes, std::span<float> values);
/// Writes float32 values as elements of a float type.
void from_f32(std::span<const float> values, DType dtype, std::span<std::byte> bytes);

/// Converts elements of a float or quantised type into a float type; equal types are copied. Sizes must
/// match.
void convert(DType from, std::span<const std::byte> source, DType to, std::span<std::byte> target);

}  // namespace moerge
