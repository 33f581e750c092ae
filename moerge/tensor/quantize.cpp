#include "moerge/tensor/quantize.h"

#include <ggml.h>

#include <cassert>
#include <vector>

#include "moerge/base/error.h"

namespace moerge {
namespace {

ggml_type ggml_type_of(DType dtype) { return static_cast<ggml_type>(info(dtype).gguf_id); }

// ggml's kernels read block structures, whose members want even addresses.
constexpr uintptr_t kAlignment = 4;

}  // namespace

void dequantize(DType dtype, std::span<const std::byte> bytes, std::span<float> values) {
  assert(std::ssize(bytes) == byte_size(dtype, std::ssize(values)));
  const std::byte* source = bytes.data();
  std::vector<std::byte> aligned;
  if (reinterpret_cast<uintptr_t>(source) % kAlignment != 0) {
    aligned.assign(bytes.begin(), bytes.end());
    source = aligned.data();
  }
  ggml_get_type_traits(ggml_type_of(dtype))->to_float(source, values.data(), std::ssize(values));
}

void quantize_rows(DType dtype, std::span<const float> values, int64_t columns,
                   std::span<const float> importance, std::span<std::byte> bytes) {
  assert(std::ssize(bytes) == byte_size(dtype, std::ssize(values)));
  const int64_t rows = std::ssize(values) / columns;
  ggml_quantize_chunk(ggml_type_of(dtype), values.data(), bytes.data(), 0, rows, columns,
                      importance.empty() ? nullptr : importance.data());
  if (!ggml_validate_row_data(ggml_type_of(dtype), bytes.data(), bytes.size()))
    fail(ErrorKind::input, "infinite values or NaN cannot be quantised to {}", info(dtype).gguf);
}

}  // namespace moerge
