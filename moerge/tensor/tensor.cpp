#include "moerge/tensor/tensor.h"

#include <fmt/format.h>

namespace moerge {

std::optional<int64_t> checked_count(const Shape& shape) {
  int64_t count = 1;
  for (int64_t n : shape) {
    if (n < 0) return {};
    if (__builtin_mul_overflow(count, n, &count)) return {};
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(count, int64_t{8}, &bytes)) return {};
  return count;
}

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (int64_t n : shape) count *= n;
  return count;
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace moerge
