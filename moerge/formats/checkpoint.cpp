#include "moerge/formats/checkpoint.h"

#include <algorithm>
#include <map>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/json.h"
#include "moerge/formats/safetensors.h"
#include "moerge/tensor/convert.h"

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
  bool pickle = false;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    pickle = pickle || (name.starts_with("pytorch_model") && name.ends_with(".bin"));
  }
  if (pickle)
    fail(ErrorKind::unsupported,
         "{}: its weights are PyTorch .bin files, which are not read yet: load the model in transformers and "
         "save it "
         "with save_pretrained(..., safe_serialization=True)",
         folder.string());
  fail(ErrorKind::input, "{}: neither {} nor {} in this folder", folder.string(), kSingle, kIndex);
}

// Where row `row` of the model lies in the file.
int64_t stored_row(const StoredTensor& tensor, int64_t row) {
  const int64_t head_rows = tensor.rows() / tensor.rotary_heads;
  const int64_t head = row / head_rows, half = row % head_rows / (head_rows / 2),
                pair = row % (head_rows / 2);
  return head * head_rows + 2 * pair + half;
}

}  // namespace

std::span<const std::byte> StoredTensor::stored_bytes() const {
  if (derivation) return derivation->source.stored_bytes();
  return file->bytes().subspan(static_cast<size_t>(offset), static_cast<size_t>(spec.bytes()));
}

void read_rows(const StoredTensor& tensor, int64_t first, int64_t count, std::span<std::byte> out) {
  if (tensor.derivation) {
    std::vector<float> values(static_cast<size_t>(count * tensor.row_elements()));
    tensor.derivation->compute(first, count, values);
    from_f32(values, tensor.spec.dtype, out);
    return;
  }
  const auto row_bytes = static_cast<size_t>(tensor.row_bytes());
  const std::span<const std::byte> bytes = tensor.stored_bytes();
  if (tensor.is_plain()) {
    const auto rows =
        bytes.subspan(static_cast<size_t>(first) * row_bytes, static_cast<size_t>(count) * row_bytes);
    std::ranges::copy(rows, out.begin());
    return;
  }
  for (int64_t i = 0; i < count; i++) {
    const auto row = bytes.subspan(static_cast<size_t>(stored_row(tensor, first + i)) * row_bytes, row_bytes);
    std::ranges::copy(row, out.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(i) * row_bytes));
  }
}

fs::path place_of(const StoredTensor& tensor) {
  const fs::path& file = tensor.file->file().path();
  return is_gguf_name(file) ? file : file.parent_path();
}

Checkpoint::Checkpoint(const fs::path& folder) : path_(folder) {
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
  for (SafetensorsEntry& entry : header.entries) add({std::move(entry.spec), &file, entry.offset});
}

void Checkpoint::add(StoredTensor tensor) {
  if (!by_name_.emplace(tensor.spec.name, tensors_.size()).second)
    fail(ErrorKind::input, "{}: \"{}\" is in two shards", path_.string(), tensor.spec.name);
  tensors_.push_back(std::move(tensor));
}

Checkpoint::Checkpoint(GgufFiles gguf, const std::function<GgufAlias(const TensorSpec&)>& alias)
    : path_(std::move(gguf.path)), gguf_(std::move(gguf.metadata)), files_(std::move(gguf.files)) {
  for (GgufFiles::Tensor& tensor : gguf.tensors) {
    TensorSpec spec = std::move(tensor.tensor.spec);
    GgufAlias known = alias(spec);
    if (known.name.empty()) continue;
    const int64_t rows = spec.shape.empty() ? 1 : spec.shape[0], heads = known.rotary_heads;
    if (heads != 0 && (rows % (2 * heads) != 0 || (spec.shape.size() < 2 && is_quantized(spec.dtype))))
      fail(ErrorKind::input, "{}: tensor \"{}\" {} does not consist of {} heads", path_.string(), spec.name,
           to_string(spec.shape), heads);
    spec.name = std::move(known.name);
    add({std::move(spec), tensor.file, tensor.tensor.offset, heads});
  }
}

void Checkpoint::transform(const std::function<std::vector<StoredTensor>(const StoredTensor&)>& change) {
  const std::vector<StoredTensor> before = std::exchange(tensors_, {});
  by_name_.clear();
  for (const StoredTensor& tensor : before)
    for (StoredTensor& made : change(tensor)) add(std::move(made));
}

const StoredTensor* Checkpoint::find(std::string_view name) const {
  const auto found = by_name_.find(std::string(name));
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

const StoredTensor& Checkpoint::at(std::string_view name) const {
  if (const StoredTensor* tensor = find(name)) return *tensor;
  fail(ErrorKind::input, "{}: tensor \"{}\" is missing", path_.string(), name);
}

int64_t Checkpoint::bytes() const {
  int64_t total = 0;
  for (const StoredTensor& tensor : tensors_) total += tensor.spec.bytes();
  return total;
}

}  // namespace moerge
