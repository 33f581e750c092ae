#include "moerge/tensor/convert.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

#include "moerge/base/error.h"
#include "moerge/tensor/convert_kernels.h"
#include "moerge/tensor/quantize.h"

namespace moerge {
namespace {

constexpr size_t kChunk = 4096;  // elements converted through one buffer that stays in the first-level cache

}  // namespace

void to_f32(DType dtype, std::span<const std::byte> bytes, std::span<float> values) {
  assert(std::ssize(bytes) == byte_size(dtype, std::ssize(values)));
  if (is_quantized(dtype)) return dequantize(dtype, bytes, values);
  convert(dtype, bytes, DType::f32, std::as_writable_bytes(values));
}

void from_f32(std::span<const float> values, DType dtype, std::span<std::byte> bytes) {
  assert(std::ssize(bytes) == byte_size(dtype, std::ssize(values)));
  convert(DType::f32, std::as_bytes(values), dtype, bytes);
}

void convert(DType from, std::span<const std::byte> source, DType to, std::span<std::byte> target) {
  if (from == to) {
    std::memcpy(target.data(), source.data(), target.size());
    return;
  }
  const size_t total = target.size() / static_cast<size_t>(info(to).bytes);
  if (const Converter converter = find_converter(from, to))
    return converter(source.data(), target.data(), total);
  if (!is_quantized(from) || !is_float(to))
    fail(ErrorKind::unsupported, "{} tensors cannot be converted", info(is_float(to) ? from : to).name());
  const auto bytes = [](DType dtype, size_t elements) {
    return static_cast<size_t>(byte_size(dtype, static_cast<int64_t>(elements)));
  };
  std::array<float, kChunk> buffer;  // a whole number of blocks of every type
  for (size_t done = 0; done < total; done += kChunk) {
    const size_t n = std::min(kChunk, total - done);
    dequantize(from, source.subspan(bytes(from, done), bytes(from, n)), std::span(buffer).first(n));
    from_f32(std::span(buffer).first(n), to, target.subspan(bytes(to, done), bytes(to, n)));
  }
}

}  // namespace moerge
