#include "moerge/formats/checkpoint.h"

#include <algorithm>
#include <map>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/json.h"
#include "moerge/formats/safetensors.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr int64_t kMaxIndex = 64 << 20;  // some hundred thousand tensors
constexpr const char* kIndex = "model.safetensors.index.json";

// tensor name -> shard, from the index.
std::map<std::string, std::string> read_index(const fs::path& file) {
  const Json index = read_json(file, kMaxIndex);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object())
    fail(ErrorKind::input, "{}: no \"weight_map\" in it", file.string());
  std::map<std::string, std::string> weights;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) fail(ErrorKind::input, "{}: \"{}\" should name a file", file.string(), name);
    const std::string value = shard.get<std::string>();
    // A plain name in the same folder: an index must not reach elsewhere.
    if (value.empty() || value == "." || value == ".." || value.find('/') != std::string::npos ||
        value.find('\0') != std::string::npos)
      fail(ErrorKind::input, "{}: \"{}\" is no file name for a shard", file.string(), value);
    weights[name] = value;
  }
  return weights;
}

[[noreturn]] void no_weights(const fs::path& folder) {
  bool pickle = false, gguf = false;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    pickle = pickle || (name.starts_with("pytorch_model") && name.ends_with(".bin"));
    gguf = gguf || name.ends_with(".gguf");
  }
  if (pickle)
    fail(ErrorKind::unsupported,
         "{}: its weights are PyTorch .bin files, which are not read yet: load the model in transformers and "
         "save it "
         "with save_pretrained(..., safe_serialization=True)",
         folder.string());
  if (gguf)
    fail(ErrorKind::unsupported, "{}: GGUF files are not read yet, safetensors are expected",
         folder.string());
  fail(ErrorKind::input, "{}: neither {} nor {} in this folder", folder.string(), kSingle, kIndex);
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& folder) : folder_(folder) {
  if (!fs::is_directory(folder)) fail(ErrorKind::input, "{} is not a folder", folder.string());
  if (fs::exists(folder / kIndex)) {
    const std::map<std::string, std::string> weights = read_index(folder / kIndex);
    std::set<std::string> shards;
    for (const auto& [name, shard] : weights) shards.insert(shard);
    for (const std::string& shard : shards) {
      if (!fs::exists(folder / shard))
        fail(ErrorKind::input, "{}: shard {} is missing (an unfinished download?)", folder.string(), shard);
      add_file(folder / shard);
    }
    for (const auto& [name, shard] : weights) {
      const StoredTensor* tensor = find(name);
      if (!tensor || tensor->file->file().path() != folder / shard)
        fail(ErrorKind::input, "{}: {} should hold \"{}\" and does not", (folder / kIndex).string(), shard,
             name);
    }
  } else if (fs::exists(folder / kSingle)) {
    add_file(folder / kSingle);
  } else {
    no_weights(folder);
  }
}

void Checkpoint::add_file(const fs::path& path) {
  const MappedFile& file = *files_.emplace_back(std::make_unique<MappedFile>(path));
  SafetensorsHeader header = parse_safetensors(file.bytes(), path.string());
  for (SafetensorsEntry& entry : header.entries) {
    if (!by_name_.emplace(entry.spec.name, tensors_.size()).second)
      fail(ErrorKind::input, "{}: \"{}\" is in two shards", folder_.string(), entry.spec.name);
    tensors_.push_back({std::move(entry.spec), &file, entry.offset});
  }
}

const StoredTensor* Checkpoint::find(std::string_view name) const {
  const auto found = by_name_.find(std::string(name));
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

const StoredTensor& Checkpoint::at(std::string_view name) const {
  if (const StoredTensor* tensor = find(name)) return *tensor;
  fail(ErrorKind::input, "{}: tensor \"{}\" is missing", folder_.string(), name);
}

int64_t Checkpoint::bytes() const {
  int64_t total = 0;
  for (const StoredTensor& tensor : tensors_) total += tensor.spec.bytes();
  return total;
}

}  // namespace moerge
