#pragma once
// A model's tensors spread over safetensors files: which file, at which offset.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "moerge/tensor/tensor.h"

namespace moerge {

/// A safetensors file to be written.
struct Shard {
  std::string file;             // name in the folder
  std::vector<size_t> tensors;  // their order in the file
  int64_t padding = 0;          // bytes added to its header, which moves the data; a multiple of 8

  /// What stands before the data.
  std::string header(std::span<const TensorSpec> specs) const;
  int64_t data_bytes(std::span<const TensorSpec> specs) const;
};

/// Shards of at most `max_bytes` of data each (one tensor may exceed it alone), in the given order.
std::vector<Shard> plan_shards(std::span<const TensorSpec> specs, int64_t max_bytes);

/// "model.safetensors" for a single one, else "model-00001-of-0000N.safetensors".
void name_shards(std::vector<Shard>& shards);

inline constexpr const char* kSingleShard = "model.safetensors";
inline constexpr const char* kShardIndex = "model.safetensors.index.json";

/// True for a regular file with this header and the right size.
bool is_shard_intact(const std::filesystem::path& folder, const Shard& shard,
                     std::span<const TensorSpec> specs);

/// The text of kShardIndex, or nothing for a single shard.
std::string shard_index(std::span<const TensorSpec> specs, std::span<const Shard> shards);

}  // namespace moerge
