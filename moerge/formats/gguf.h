#pragma once
// The GGUF container, version 3 (2 is read too), little-endian
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): "GGUF", version, counts of tensors and
// metadata, the metadata as typed key-value pairs, the tensors' names, shapes, types and offsets, then their
// data, each tensor at a multiple of the alignment. Shapes are given here in PyTorch's order, slowest
// dimension first; the file has them reversed.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "moerge/tensor/tensor.h"

namespace moerge {

inline constexpr int64_t kGgufAlignment = 32;  // unless general.alignment says otherwise
inline constexpr std::string_view kGgufAlignmentKey = "general.alignment";
/// More than any model's metadata and tensor list takes (a vocabulary of a million tokens: some 40 MB).
inline constexpr int64_t kMaxGgufHeader = 512 << 20;

/// A value keeps its type: readers of the format are particular about it. The alternatives stand in the order
/// of the format's type numbers (9, the array, spread over the element types at the end).
using GgufValue =
    std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool, std::string, uint64_t,
                 int64_t, double, std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>,
                 std::vector<int16_t>, std::vector<uint32_t>, std::vector<int32_t>, std::vector<float>,
                 std::vector<bool>, std::vector<std::string>, std::vector<uint64_t>, std::vector<int64_t>,
                 std::vector<double>>;

/// Keys in the order they were added; a key is there once.
class GgufMetadata {
 public:
  using Entry = std::pair<std::string, GgufValue>;

  // Compiled once: what the 24 alternatives take is more than the rest of most files that hold one of these.
  GgufMetadata();
  GgufMetadata(const GgufMetadata& other);
  GgufMetadata(GgufMetadata&& other) noexcept;
  GgufMetadata& operator=(const GgufMetadata& other);
  GgufMetadata& operator=(GgufMetadata&& other) noexcept;
  ~GgufMetadata();

  /// Adds or replaces.
  void set(std::string key, GgufValue value);
  void erase(std::string_view key);
  const GgufValue* find(std::string_view key) const;
  const std::vector<Entry>& entries() const { return entries_; }

  /// Members by key; empty when absent or of another kind. Any integer type serves for an integer, either
  /// float type or an integer for a number.
  std::optional<int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  const std::string* string(std::string_view key) const;
  template <typename T>
  const std::vector<T>* array(std::string_view key) const {
    const GgufValue* value = find(key);
    return value ? std::get_if<std::vector<T>>(value) : nullptr;
  }

 private:
  std::vector<Entry> entries_;
  std::map<std::string, size_t, std::less<>> places_;  // of each key in entries_
};

struct GgufTensor {
  TensorSpec spec;
  int64_t offset;  // of its first byte, from the start of the file
};

struct GgufHeader {
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in the file's order
  int64_t alignment = kGgufAlignment;
};

/// Parses and validates the start of a file: magic, version, counts against the file's size, strings, types,
/// names that repeat, alignment (a power of two), offsets (aligned, inside the file, no overlap). `where`
/// starts every message, which says what was expected and found at which byte. Throws ErrorKind::input, and
/// unsupported for tensor types that this program does not know and big-endian files.
GgufHeader parse_gguf(std::span<const std::byte> file, const std::string& where);

/// What a file with these tensors (of at most 4 dimensions) in this order begins with, padded so that the
/// data may follow. Throws unsupported for a type that the format does not have.
struct GgufLayout {
  std::string header;
  std::vector<int64_t> offsets;  // of each tensor, from the start of the file
  int64_t file_size = 0;         // the last tensor padded too, as llama.cpp does it
};
GgufLayout layout_gguf(const GgufMetadata& metadata, std::span<const TensorSpec> specs);

}  // namespace moerge
