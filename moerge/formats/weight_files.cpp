#include "moerge/formats/weight_files.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/json.h"
#include "moerge/formats/pytorch.h"
#include "moerge/formats/safetensors.h"
#include "moerge/formats/shards.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxIndex = 64 << 20;  // some hundred thousand tensors

std::vector<WeightEntry> read_safetensors(std::span<const std::byte> file, const std::string& where) {
  return parse_safetensors(file, where).entries;
}

constexpr std::array<WeightLayout, 2> kLayouts = {{
    {kSingleShard, kShardIndex, ".safetensors", read_safetensors},
    {"pytorch_model.bin", "pytorch_model.bin.index.json", ".bin", parse_pytorch},
}};

}  // namespace

std::span<const WeightLayout> weight_layouts() { return kLayouts; }

const WeightLayout* find_weight_layout(const fs::path& folder) {
  const auto found = std::ranges::find_if(kLayouts, [&](const WeightLayout& layout) {
    return fs::exists(folder / layout.index) || fs::exists(folder / layout.single);
  });
  return found == kLayouts.end() ? nullptr : &*found;
}

std::vector<std::string> list_weight_files(const fs::path& folder) {
  const WeightLayout* layout = find_weight_layout(folder);
  if (!layout) return {};
  const fs::path index = folder / layout->index;
  if (!fs::exists(index)) return {layout->single};
  std::set<std::string> shards;
  for (const auto& [name, shard] : read_weight_index(index)) shards.insert(shard);
  return {shards.begin(), shards.end()};
}

WeightReader weight_reader(const fs::path& file) {
  const auto found = std::ranges::find(kLayouts, file.extension().string(), &WeightLayout::extension);
  if (found == kLayouts.end())
    fail(ErrorKind::unsupported, "{}: a file of weights should end in .safetensors or .bin", file.string());
  return found->read;
}

void refuse_git_lfs_pointer(std::span<const std::byte> file, const std::string& where) {
  constexpr std::string_view kPointer = "version https://git-lfs";
  if (std::string_view(reinterpret_cast<const char*>(file.data()), file.size()).starts_with(kPointer))
    fail(ErrorKind::input, "{}: a Git LFS pointer, not the file itself: run \"git lfs pull\" in its folder",
         where);
}

std::map<std::string, std::string> read_weight_index(const fs::path& file) {
  return parse_weight_index(read_file(file, kMaxIndex), file.string());
}

std::map<std::string, std::string> parse_weight_index(std::string_view text, const std::string& where) {
  const Json index = parse_json(text, where);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object()) fail(ErrorKind::input, "{}: no \"weight_map\" in it", where);
  std::map<std::string, std::string> weights;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) fail(ErrorKind::input, "{}: \"{}\" should name a file", where, name);
    const std::string value = shard.get<std::string>();
    // A plain name in the same folder: an index must not reach elsewhere.
    if (value.empty() || value == "." || value == ".." || value.find('/') != std::string::npos ||
        value.find('\0') != std::string::npos)
      fail(ErrorKind::input, "{}: \"{}\" is no file name for a shard", where, value);
    weights[name] = value;
  }
  return weights;
}

}  // namespace moerge
