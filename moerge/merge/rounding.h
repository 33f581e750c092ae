#pragma once
// Arithmetic as PyTorch does it with tensors of 16 bits: every operation in float32, its result rounded to
// the tensor's type.

#include "moerge/tensor/convert.h"

namespace moerge {

struct RoundToF32 {
  float operator()(float value) const { return value; }
};
struct RoundToBf16 {
  float operator()(float value) const { return bf16_to_f32(f32_to_bf16(value)); }
};
struct RoundToF16 {
  float operator()(float value) const { return f16_to_f32(f32_to_f16(value)); }
};

/// Calls use(rounding) with the one that belongs to a type.
template <typename Use>
auto with_rounding(DType dtype, const Use& use) {
  if (dtype == DType::bf16) return use(RoundToBf16());
  if (dtype == DType::f16) return use(RoundToF16());
  return use(RoundToF32());
}

/// One value, where it does not matter how long that takes.
inline float rounded(DType dtype, double value) {
  return with_rounding(dtype, [&](auto round) { return round(static_cast<float>(value)); });
}

}  // namespace moerge
