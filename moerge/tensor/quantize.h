#pragma once
// ggml's block-quantised types, through ggml's own reference kernels: the same bytes that llama.cpp writes.

#include <cstddef>
#include <cstdint>
#include <span>

#include "moerge/tensor/dtype.h"

namespace moerge {

/// Whole blocks into float32; `bytes` may start at any address. Called by to_f32().
void dequantize(DType dtype, std::span<const std::byte> bytes, std::span<float> values);

/// Rows of `columns` values, float32 row-major, into a block type or f32, f16, bf16; `columns` is a multiple
/// of the type's block. `importance`: one weight per column, or empty. Throws input when a
/// block's scale is not finite.
void quantize_rows(DType dtype, std::span<const float> values, int64_t columns,
                   std::span<const float> importance, std::span<std::byte> bytes);

}  // namespace moerge
