#pragma once
// Adding a product of two thin matrices to a wide one, some rows at a time.

#include <span>

#include "moerge/tensor/tensor.h"

namespace moerge {

/// values += scale * (b a), with b [rows, rank] and a [rank, columns], a float type; `values` has
/// b.size() / rank rows of `columns`. Each element is the sum over the rank in rising order, in float32: the
/// same bits however the rows are cut.
void add_low_rank(std::span<float> values, std::span<const float> b, const TensorView& a, float scale);

}  // namespace moerge
