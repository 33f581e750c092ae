#pragma once
// Shapes, specifications and borrowed views of tensors. All tensors are dense and row-major.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "moerge/tensor/dtype.h"

namespace moerge {

using Shape = std::vector<int64_t>;

/// Product of the dimensions, or empty when one is negative or the product (or its size in 8-byte elements)
/// does not fit 63 bits. Safe on dimensions that come from a file.
std::optional<int64_t> checked_count(const Shape& shape);

/// Product of the dimensions of a shape that is known to be valid.
int64_t element_count(const Shape& shape);

/// "[4096, 14336]".
std::string to_string(const Shape& shape);

struct TensorSpec {
  std::string name;
  DType dtype;
  Shape shape;

  int64_t elements() const { return element_count(shape); }
  int64_t bytes() const { return byte_size(dtype, elements()); }
};

/// A tensor whose bytes belong to somebody else.
struct TensorView {
  DType dtype;
  Shape shape;
  std::span<const std::byte> bytes;
};

}  // namespace moerge
