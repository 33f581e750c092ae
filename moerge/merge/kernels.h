#pragma once
// The loops that a merge spends its time in, compiled for several instruction sets. Each operation is done in
// float32 and its result rounded to `dtype` (rounding.h); multiplications and additions are not contracted,
// so that all sets give the same bits. Spans of a call have one size.

#include <cstdint>
#include <span>

#include "moerge/tensor/dtype.h"

namespace moerge {

/// out = a - b
void subtract_values(DType dtype, std::span<const float> a, std::span<const float> b, std::span<float> out);
/// values *= factor
void scale_values(DType dtype, float factor, std::span<float> values);
/// out += values
void add_values(DType dtype, std::span<const float> values, std::span<float> out);
/// out += factor * values, without rounding
void add_scaled_values(float factor, std::span<const float> values, std::span<float> out);
/// values /= divisor
void divide_values(DType dtype, float divisor, std::span<float> values);
/// out = fa * a + fb * b, rounded once
void mix_values(DType dtype, float fa, std::span<const float> a, float fb, std::span<const float> b,
                std::span<float> out);
/// How differences from a base are added up where only those count that have the sign of their sum.
struct AgreeingSum {
  std::span<const std::span<const float>> differences;
  std::span<const float> weights;  // of the differences, which are multiplied by them already
  bool normalize;                  // divide by the sum of the weights that count
  float lambda;                    // factor on the sum
};
/// out = base + the sum of the differences that agree. 0 and what is not a number never count; a sum of 0 is
/// positive, one that is not a number negative. Sums are rounded when they are complete.
void add_agreeing(DType dtype, const AgreeingSum& sum, std::span<const float> base, std::span<float> out);
/// A value becomes 0 where drawn >= limit.
void keep_below(float limit, std::span<const float> drawn, std::span<float> values);
/// The same with limits least + range * rank.
void keep_below(float least, float range, std::span<const float> ranks, std::span<const float> drawn,
                std::span<float> values);

/// A value becomes 0 where the bits of its magnitude are below `least`.
void keep_magnitudes(uint32_t least, std::span<float> values);

/// Of absolute values, in double.
double sum_magnitudes(std::span<const float> values);
/// Of products, in double.
double dot_product(std::span<const float> a, std::span<const float> b);

}  // namespace moerge
