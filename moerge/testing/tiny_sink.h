#pragma once
// A few tensors for a sink: each is its name's letter, over and over.

#include <span>
#include <string>
#include <vector>

#include "moerge/formats/sink.h"

namespace moerge::testing {

inline const std::vector<TensorSpec> kSpecs = {
    {"a", DType::u8, {10}}, {"b", DType::u8, {10}}, {"c", DType::u8, {25}}, {"d", DType::u8, {1}}};

inline std::string bytes_of(const TensorSpec& spec) {
  return std::string(static_cast<size_t>(spec.bytes()), spec.name[0]);
}

// Returns how many tensors it was allowed to write.
inline int write_all(TensorSink& sink, std::span<const TensorSpec> specs) {
  sink.begin(specs);
  int written = 0;
  for (size_t i = specs.size(); i-- > 0;) {
    if (!sink.wants(i)) continue;
    written++;
    const std::string bytes = bytes_of(specs[i]);
    sink.put(i, 1, std::as_bytes(std::span(bytes)).subspan(1));
    sink.put(i, 0, std::as_bytes(std::span(bytes)).first(1));
    sink.complete(i);
  }
  sink.finish();
  return written;
}

}  // namespace moerge::testing
