#include "moerge/formats/shards.h"

#include <fmt/format.h>

#include <algorithm>

#include "moerge/base/file.h"
#include "moerge/base/json.h"
#include "moerge/formats/safetensors.h"

namespace moerge {

std::string Shard::header(std::span<const TensorSpec> specs) const {
  std::vector<TensorSpec> inside;
  for (const size_t i : tensors) inside.push_back(specs[i]);
  return safetensors_header(inside, padding);
}

int64_t Shard::data_bytes(std::span<const TensorSpec> specs) const {
  int64_t bytes = 0;
  for (const size_t i : tensors) bytes += specs[i].bytes();
  return bytes;
}

std::vector<Shard> plan_shards(std::span<const TensorSpec> specs, int64_t max_bytes) {
  std::vector<Shard> shards;
  int64_t used = 0;
  for (size_t i = 0; i < specs.size(); i++) {
    const int64_t bytes = specs[i].bytes();
    if (shards.empty() || (!shards.back().tensors.empty() && used + bytes > max_bytes)) {
      shards.emplace_back();
      used = 0;
    }
    shards.back().tensors.push_back(i);
    used += bytes;
  }
  name_shards(shards);
  return shards;
}

void name_shards(std::vector<Shard>& shards) {
  for (size_t i = 0; i < shards.size(); i++)
    shards[i].file = shards.size() == 1
                         ? kSingleShard
                         : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
}

bool is_shard_intact(const std::filesystem::path& folder, const Shard& shard,
                     std::span<const TensorSpec> specs) {
  const std::filesystem::path path = folder / shard.file;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(std::filesystem::symlink_status(path, ignored))) return false;
  const std::string header = shard.header(specs);
  const File file = File::open_read(path);
  if (file.size() != std::ssize(header) + shard.data_bytes(specs)) return false;
  std::string found(header.size(), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(found)));
  return found == header;
}

std::string shard_index(std::span<const TensorSpec> specs, std::span<const Shard> shards) {
  if (shards.size() <= 1) return "";
  int64_t total = 0;
  std::vector<std::pair<std::string, std::string>> names;
  for (const Shard& shard : shards)
    for (const size_t i : shard.tensors) {
      names.emplace_back(specs[i].name, shard.file);
      total += specs[i].bytes();
    }
  std::ranges::sort(names);
  Json::object_t weights;
  for (auto& [name, file] : names) weights.push_back({name, file});
  const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weights)}};
  return index.dump(2) + "\n";
}

}  // namespace moerge
