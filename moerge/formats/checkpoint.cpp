#include "moerge/formats/checkpoint.h"

#include <algorithm>
#include <map>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

// A folder in which find_weight_layout() found nothing.
[[noreturn]] void no_weights(const fs::path& folder) {
  std::vector<std::string> expected;
  for (const WeightLayout& layout : weight_layouts())
    expected.insert(expected.end(), {layout.single, layout.index});
  fail(ErrorKind::input, "{}: no weights in this folder: none of {}", folder.string(),
       fmt::join(expected, ", "));
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
  if (!file) return {};
  return file->bytes().subspan(static_cast<size_t>(offset), static_cast<size_t>(spec.bytes()));
}

void StoredTensor::prefetch() const {
  if (file) file->prefetch(stored_bytes());
}

void StoredTensor::release() const {
  if (file) file->release(stored_bytes());
}

std::vector<const StoredTensor*> stored_sources(const StoredTensor& tensor) {
  if (!tensor.derivation) return tensor.file ? std::vector{&tensor} : std::vector<const StoredTensor*>{};
  std::vector<const StoredTensor*> out = stored_sources(tensor.derivation->source);
  for (const StoredTensor& beside : tensor.derivation->beside)
    for (const StoredTensor* stored : stored_sources(beside)) out.push_back(stored);
  return out;
}

void read_rows(const StoredTensor& tensor, int64_t first, int64_t count, std::span<std::byte> out) {
  if (tensor.derivation) {
    const int64_t row = tensor.row_elements();
    const int64_t step = std::max<int64_t>(1, tensor.derivation->stretch / std::max<int64_t>(1, row));
    const auto memory =
        std::make_unique_for_overwrite<float[]>(static_cast<size_t>(std::min(step, count) * row));
    for (int64_t done = 0; done < count; done += step) {
      const int64_t rows = std::min(step, count - done);
      const std::span values(memory.get(), static_cast<size_t>(rows * row));
      tensor.derivation->compute(first + done, rows, values);
      from_f32(values, tensor.spec.dtype,
               out.subspan(static_cast<size_t>(done * tensor.row_bytes()),
                           static_cast<size_t>(rows * tensor.row_bytes())));
    }
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

void read_row_values(const StoredTensor& tensor, int64_t first, int64_t count, std::span<float> values) {
  std::vector<std::byte> bytes(static_cast<size_t>(count * tensor.row_bytes()));
  read_rows(tensor, first, count, bytes);
  to_f32(tensor.spec.dtype, bytes, values);
}

void release_rows(const StoredTensor& tensor, int64_t first, int64_t count) {
  if (tensor.rows() == 0 || !tensor.file) return;
  const std::span<const std::byte> stored = tensor.stored_bytes();
  const size_t row_bytes = stored.size() / static_cast<size_t>(tensor.rows());
  tensor.file->release(
      stored.subspan(static_cast<size_t>(first) * row_bytes, static_cast<size_t>(count) * row_bytes));
}

fs::path place_of(const StoredTensor& tensor) {
  const fs::path& file = tensor.file->file().path();
  return is_gguf_name(file) ? file : file.parent_path();
}

Checkpoint::Checkpoint(const fs::path& folder) : path_(folder) {
  if (!fs::is_directory(folder)) fail(ErrorKind::input, "{} is not a folder", folder.string());
  const WeightLayout* layout = find_weight_layout(folder);
  if (!layout) no_weights(folder);
  const fs::path index = folder / layout->index;
  if (!fs::exists(index)) {
    add_file(folder / layout->single, layout->read);
    return;
  }
  for (const std::string& shard : list_weight_files(folder)) {
    if (!fs::exists(folder / shard))
      fail(ErrorKind::input, "{}: shard {} is missing (an unfinished download?)", folder.string(), shard);
    add_file(folder / shard, layout->read);
  }
  for (const auto& [name, shard] : read_weight_index(index)) {
    const StoredTensor* tensor = find(name);
    if (!tensor || tensor->file->file().path() != folder / shard)
      fail(ErrorKind::input, "{}: {} should hold \"{}\" and does not", index.string(), shard, name);
  }
}

Checkpoint Checkpoint::open_file(const fs::path& file) {
  const WeightReader read = weight_reader(file);
  Checkpoint out;
  out.path_ = file;
  out.add_file(file, read);
  return out;
}

Checkpoint Checkpoint::of_tensors(const fs::path& path, std::vector<StoredTensor> tensors) {
  Checkpoint out;
  out.path_ = path;
  for (StoredTensor& tensor : tensors) out.add(std::move(tensor));
  return out;
}

void Checkpoint::add_file(const fs::path& path, WeightReader read) {
  const MappedFile& file = *files_.emplace_back(std::make_unique<MappedFile>(path));
  for (WeightEntry& entry : read(file.bytes(), path.string()))
    add({std::move(entry.spec), &file, entry.offset});
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
