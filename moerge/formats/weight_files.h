#pragma once
// Which files hold a model's weights: what a folder may contain, and what a file's format is.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/tensor/tensor.h"

namespace moerge {

/// A tensor in a file of weights.
struct WeightEntry {
  TensorSpec spec;
  int64_t offset;  // of its first byte, from the start of the file
};

/// Reads what a mapped file says of its tensors; `where` starts every message.
using WeightReader = std::vector<WeightEntry> (*)(std::span<const std::byte> file, const std::string& where);

/// One way for a folder to hold weights.
struct WeightLayout {
  const char* single;
  const char* index;  // names the shards
  const char* extension;
  WeightReader read;
};

/// In the order of preference: safetensors, PyTorch.
std::span<const WeightLayout> weight_layouts();
/// The layout that a folder has, or null.
const WeightLayout* find_weight_layout(const std::filesystem::path& folder);
/// The files that hold a folder's weights, there or not: those that its index names, else the single one;
/// none when it has neither. Throws input for a damaged index.
std::vector<std::string> list_weight_files(const std::filesystem::path& folder);
/// The reader for a single file, by its extension. Throws unsupported for others.
WeightReader weight_reader(const std::filesystem::path& file);

/// Throws input when the file is what Git LFS leaves in a clone in place of a large file.
void refuse_git_lfs_pointer(std::span<const std::byte> file, const std::string& where);

/// Tensor name -> shard of an index, every shard a plain name in the index's folder. Throws input.
std::map<std::string, std::string> read_weight_index(const std::filesystem::path& file);

/// The same from its text.
std::map<std::string, std::string> parse_weight_index(std::string_view text, const std::string& where);

}  // namespace moerge
