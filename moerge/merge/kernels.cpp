#include "moerge/merge/kernels.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "moerge/base/dispatch.h"
#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

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
MOERGE_DISPATCHED void mix(DType dtype, float fa, In a, float fb, In b, Out out, size_t n) {
  for_type(dtype, [=](auto round) MOERGE_INLINED {
    for (size_t i = 0; i < n; i++) out[i] = round(fa * a[i] + fb * b[i]);
  });
}

// In steps whose sums stay in the nearest cache.
MOERGE_DISPATCHED void agree(DType dtype, const AgreeingSum& sum, In base, Out out, size_t n) {
  constexpr size_t kStep = 512;
  for_type(dtype, [&](auto round) MOERGE_INLINED {
    for (size_t begin = 0; begin < n; begin += kStep) {
      const size_t size = std::min(kStep, n - begin);
      float signs[kStep], sums[kStep], divisors[kStep];
      std::fill_n(signs, size, 0.0f);
      for (const std::span<const float> difference : sum.differences) {
        const In values = difference.data() + begin;
        for (size_t i = 0; i < size; i++) signs[i] += values[i];
      }
      for (size_t i = 0; i < size; i++) {
        signs[i] = round(signs[i]) >= 0 ? 1.0f : -1.0f;
        sums[i] = divisors[i] = 0;
      }
      for (size_t d = 0; d < sum.differences.size(); d++) {
        const In values = sum.differences[d].data() + begin;
        const float weight = sum.weights[d];
        for (size_t i = 0; i < size; i++) {
          const bool agrees = values[i] * signs[i] > 0;
          sums[i] += agrees ? values[i] : 0.0f;
          divisors[i] += agrees ? weight : 0.0f;
        }
      }
      for (size_t i = 0; i < size; i++) sums[i] = round(sums[i]);
      if (sum.normalize) {  // one thing at a time, so that each loop vectorises
        for (size_t i = 0; i < size; i++) divisors[i] = round(divisors[i]);
        for (size_t i = 0; i < size; i++) divisors[i] = divisors[i] == 0 ? 1.0f : divisors[i];
        for (size_t i = 0; i < size; i++) sums[i] = round(sums[i] / divisors[i]);
      }
      if (sum.lambda != 1)
        for (size_t i = 0; i < size; i++) sums[i] = round(sums[i] * sum.lambda);
      const In from = base + begin;
      const Out to = out + begin;
      for (size_t i = 0; i < size; i++) to[i] = round(from[i] + sums[i]);
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

void mix_values(DType dtype, float fa, std::span<const float> a, float fb, std::span<const float> b,
                std::span<float> out) {
  mix(dtype, fa, a.data(), fb, b.data(), out.data(), out.size());
}

void add_agreeing(DType dtype, const AgreeingSum& sum, std::span<const float> base, std::span<float> out) {
  agree(dtype, sum, base.data(), out.data(), out.size());
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
