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

float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);
float f8_e4m3_to_f32(uint8_t bits);

/// Reads `values.size()` elements of a float type (those of 8 bits included), or whole blocks of a quantised
/// one, into float32.
void to_f32(DType dtype, std::span<const std::byte> bytes, std::span<float> values);
/// Writes float32 values as elements of a float type.
void from_f32(std::span<const float> values, DType dtype, std::span<std::byte> bytes);

/// Converts elements of a float or quantised type into a float type; equal types are copied. Sizes must
/// match.
void convert(DType from, std::span<const std::byte> source, DType to, std::span<std::byte> target);

}  // namespace moerge
