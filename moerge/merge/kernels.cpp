#include "moerge/merge/kernels.h"

#include <array>
#include <bit>
#include <cmath>

#include "moerge/base/dispatch.h"
#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;

using In = const float* __restrict;
using Out = float* __restrict;

// with_rounding(), compiled into each variant of its caller.
template <typename Use>
MOERGE_INLINED inline void for_type(DType dtype, const Use& use) {
  if (dtype == DType::bf16)
    use(RoundToBf16());
  else if (dtype == DType::f16)
    use(RoundToF16());
  else
    use(RoundToF32());
}

MOERGE_DISPATCHED void subtract(DType dtype, In a, In b, Out out, size_t n) {
  for_type(dtype, [=](auto round) MOERGE_INLINED {
    for (size_t i = 0; i < n; i++) out[i] = round(a[i] - b[i]);
  });
}
MOERGE_DISPATCHED void scale(DType dtype, float factor, Out values, size_t n) {
  for_type(dtype, [=](auto round) MOERGE_INLINED {
    for (size_t i = 0; i < n; i++) values[i] = round(values[i] * factor);
  });
}
MOERGE_DISPATCHED void add(DType dtype, In values, Out out, size_t n) {
  for_type(dtype, [=](auto round) MOERGE_INLINED {
    for (size_t i = 0; i < n; i++) out[i] = round(out[i] + values[i]);
  });
}
MOERGE_DISPATCHED void add_scaled(float factor, In values, Out out, size_t n) {
  for (size_t i = 0; i < n; i++) out[i] += factor * values[i];
}
MOERGE_DISPATCHED void divide(DType dtype, float divisor, Out values, size_t n) {
  for_type(dtype, [=](auto round) MOERGE_INLINED {
    for (size_t i = 0; i < n; i++) values[i] = round(values[i] / divisor);
  });
}
MOERGE_DISPATCHED void divide_each(DType dtype, In divisors, Out values, size_t n) {
  for_type(dtype, [=](auto round) MOERGE_INLINED {
    for (size_t i = 0; i < n; i++) values[i] = round(values[i] / divisors[i]);
  });
}
MOERGE_DISPATCHED void mix(DType dtype, float fa, In a, float fb, In b, Out out, size_t n) {
  for_type(dtype, [=](auto round) MOERGE_INLINED {
    for (size_t i = 0; i < n; i++) out[i] = round(fa * a[i] + fb * b[i]);
  });
}

// 1 where a magnitude's bits are those of no number, or of anything but 0.
constexpr uint32_t is_nan(uint32_t magnitude) { return (kInfinity - magnitude) >> 31; }
constexpr uint32_t is_not_zero(uint32_t magnitude) { return (0u - magnitude) >> 31; }

// On bits, with arithmetic alone: comparisons of floats would keep the loop from being vectorised.
MOERGE_DISPATCHED void agree(DType dtype, In sum, In values, float weight, Out out, Out divisor, size_t n) {
  const uint32_t weight_bits = std::bit_cast<uint32_t>(weight);
  for_type(dtype, [=](auto round) MOERGE_INLINED {
    for (size_t i = 0; i < n; i++) {
      const uint32_t total = std::bit_cast<uint32_t>(round(sum[i])),
                     bits = std::bit_cast<uint32_t>(values[i]);
      const uint32_t negative = is_nan(total & kMagnitude) | (total >> 31 & is_not_zero(total & kMagnitude));
      const uint32_t counts = is_not_zero(bits & kMagnitude) & (1u ^ is_nan(bits & kMagnitude));
      const uint32_t mask = 0u - (counts & (1u ^ (bits >> 31) ^ negative));
      out[i] += std::bit_cast<float>(bits & mask);
      divisor[i] += std::bit_cast<float>(weight_bits & mask);
    }
  });
}
MOERGE_DISPATCHED void finish_sums(DType dtype, Out values, Out divisors, size_t n) {
  for_type(dtype, [=](auto round) MOERGE_INLINED {
    for (size_t i = 0; i < n; i++) {
      values[i] = round(values[i]);
      const float divisor = round(divisors[i]);
      divisors[i] = divisor == 0 ? 1.0f : divisor;
    }
  });
}
MOERGE_DISPATCHED void keep(float limit, In drawn, Out values, size_t n) {
  for (size_t i = 0; i < n; i++) values[i] = drawn[i] < limit ? values[i] : 0.0f;
}
MOERGE_DISPATCHED void keep_by_rank(float least, float range, In ranks, In drawn, Out values, size_t n) {
  for (size_t i = 0; i < n; i++) values[i] = drawn[i] < least + ranks[i] * range ? values[i] : 0.0f;
}

MOERGE_DISPATCHED void keep_large(uint32_t least, Out values, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const uint32_t bits = std::bit_cast<uint32_t>(values[i]);
    values[i] = std::bit_cast<float>((bits & 0x7fffffffu) >= least ? bits : 0u);
  }
}

// Sums in double are kept in lanes, whose order is the same for every instruction set.
constexpr size_t kLanes = 16;
using Lanes = std::array<double, kLanes>;

MOERGE_DISPATCHED void add_magnitudes(In values, Lanes& lanes, size_t n) {
  for (size_t i = 0; i < n; i += kLanes)
    for (size_t k = 0; k < kLanes; k++) lanes[k] += std::abs(static_cast<double>(values[i + k]));
}
MOERGE_DISPATCHED void add_products(In a, In b, Lanes& lanes, size_t n) {
  for (size_t i = 0; i < n; i += kLanes)
    for (size_t k = 0; k < kLanes; k++)
      lanes[k] += static_cast<double>(a[i + k]) * static_cast<double>(b[i + k]);
}

double total(const Lanes& lanes) {
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

void subtract_values(DType dtype, std::span<const float> a, std::span<const float> b, std::span<float> out) {
  subtract(dtype, a.data(), b.data(), out.data(), out.size());
}

void scale_values(DType dtype, float factor, std::span<float> values) {
  scale(dtype, factor, values.data(), values.size());
}

void add_values(DType dtype, std::span<const float> values, std::span<float> out) {
  add(dtype, values.data(), out.data(), out.size());
}

void add_scaled_values(float factor, std::span<const float> values, std::span<float> out) {
  add_scaled(factor, values.data(), out.data(), out.size());
}

void divide_values(DType dtype, float divisor, std::span<float> values) {
  divide(dtype, divisor, values.data(), values.size());
}

void divide_values(DType dtype, std::span<const float> divisors, std::span<float> values) {
  divide_each(dtype, divisors.data(), values.data(), values.size());
}

void mix_values(DType dtype, float fa, std::span<const float> a, float fb, std::span<const float> b,
                std::span<float> out) {
  mix(dtype, fa, a.data(), fb, b.data(), out.data(), out.size());
}

void add_agreeing(DType dtype, std::span<const float> sum, std::span<const float> values, float weight,
                  std::span<float> out, std::span<float> divisor) {
  agree(dtype, sum.data(), values.data(), weight, out.data(), divisor.data(), out.size());
}

void round_sums(DType dtype, std::span<float> values, std::span<float> divisors) {
  finish_sums(dtype, values.data(), divisors.data(), values.size());
}

void keep_below(float limit, std::span<const float> drawn, std::span<float> values) {
  keep(limit, drawn.data(), values.data(), values.size());
}

void keep_below(float least, float range, std::span<const float> ranks, std::span<const float> drawn,
                std::span<float> values) {
  keep_by_rank(least, range, ranks.data(), drawn.data(), values.data(), values.size());
}

void keep_magnitudes(uint32_t least, std::span<float> values) {
  keep_large(least, values.data(), values.size());
}

double sum_magnitudes(std::span<const float> values) {
  Lanes lanes = {};
  const size_t whole = values.size() / kLanes * kLanes;
  add_magnitudes(values.data(), lanes, whole);
  for (size_t i = whole; i < values.size(); i++) lanes[i - whole] += std::abs(static_cast<double>(values[i]));
  return total(lanes);
}

double dot_product(std::span<const float> a, std::span<const float> b) {
  Lanes lanes = {};
  const size_t whole = a.size() / kLanes * kLanes;
  add_products(a.data(), b.data(), lanes, whole);
  for (size_t i = whole; i < a.size(); i++)
    lanes[i - whole] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return total(lanes);
}

}  // namespace moerge
