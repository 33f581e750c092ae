#pragma once
// The safetensors format (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length N, N
// bytes of JSON {name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": {..}}, then the data
// without holes.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/file.h"
#include "moerge/formats/weight_files.h"
#include "moerge/tensor/tensor.h"

namespace moerge {

/// The reference implementation's limit for the JSON header.
inline constexpr int64_t kMaxSafetensorsHeader = 100'000'000;

struct SafetensorsHeader {
  std::vector<WeightEntry> entries;  // by offset
  std::map<std::string, std::string> metadata;
};

/// Parses and validates the start of a file of `file_size` bytes: types and shapes known, sizes equal to
/// offsets, no hole, no overlap, no duplicate, nothing beyond the end. `where` starts every message. Throws
/// ErrorKind::input.
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& where);

/// The bytes before the data of a file with these tensors in this order, metadata {"format": "pt"}, padded
/// with spaces so that the data start at a multiple of 8 bytes, and with `padding` more.
std::string safetensors_header(std::span<const TensorSpec> specs, int64_t padding = 0);

}  // namespace moerge
