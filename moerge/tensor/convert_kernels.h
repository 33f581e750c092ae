#pragma once
// The loops of convert.h, once for each instruction set; convert.cpp takes the best set that the processor
// has.

#include <cstddef>
#include <span>
#include <string_view>

#include "moerge/tensor/dtype.h"

namespace moerge {

/// Converts n elements. Source and target may start at any byte, and do not overlap.
using Converter = void (*)(const std::byte* source, std::byte* target, size_t n);

struct ConverterSet {
  std::string_view name;
  bool (*runs_here)();
  /// From a float type (those of 8 bits included) into another one, or null.
  Converter (*find)(DType from, DType to);
};

/// All that this program was compiled for, the best first; the last one runs everywhere. Their results are
/// equal.
std::span<const ConverterSet> converter_sets();

/// What the best set that runs here has, or null.
Converter find_converter(DType from, DType to);

}  // namespace moerge
