#include "moerge/export/importance.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/partial_file.h"
#include "moerge/formats/gguf.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";

// -------- from sums to means

// The operations and their order are those of llama.cpp's tools/quantize: the same bits come out.
std::vector<float> means_of(const std::vector<float>& sums, const std::vector<int64_t>& counts,
                            std::vector<int64_t>& unseen) {
  std::vector<float> means(sums.size(), 1.0f);
  const size_t columns = sums.size() / counts.size();
  for (size_t matrix = 0; matrix < counts.size(); matrix++) {
    const auto count = static_cast<float>(counts[matrix]);
    if (count > 0)
      for (size_t i = matrix * columns; i < (matrix + 1) * columns; i++) means[i] = sums[i] / count;
    else
      unseen.push_back(static_cast<int64_t>(matrix));
  }
  return means;
}

void add(Importance& out, const std::string& name, const SquareSums& squares) {
  std::vector<int64_t> unseen;
  out.tensors[name] = means_of(squares.sums, squares.counts, unseen);
  if (!unseen.empty()) out.unseen[name] = std::move(unseen);
}

void check_means(const Importance& importance) {
  for (const auto& [name, means] : importance.tensors)
    for (size_t i = 0; i < means.size(); i++)
      if (!std::isfinite(means[i]) || means[i] < 0)
        fail(ErrorKind::input, "{}: damaged: the mean square of column {} of \"{}\" is {}", importance.where,
             i, name, means[i]);
}

// -------- the GGUF format

std::vector<float> floats_of(const GgufTensor& tensor, std::span<const std::byte> file,
                             const std::string& where) {
  if (tensor.spec.dtype != DType::f32)
    fail(ErrorKind::input, "{}: \"{}\" is {}, float32 is expected", where, tensor.spec.name,
         info(tensor.spec.dtype).name());
  std::vector<float> values(static_cast<size_t>(tensor.spec.elements()));
  const auto bytes =
      file.subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.spec.bytes()));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

SquareSums squares_of(const GgufTensor& sums, const GgufTensor& counts, std::span<const std::byte> file,
                      const std::string& where) {
  SquareSums out = {.sums = floats_of(sums, file, where), .counts = {}};
  for (const float count : floats_of(counts, file, where)) {
    constexpr float kMost = 1e18f;
    if (!(count >= 0 && count <= kMost))
      fail(ErrorKind::input, "{}: damaged: \"{}\" counts {} rows", where, counts.spec.name, count);
    out.counts.push_back(std::lround(count));
  }
  if (out.sums.empty() || out.counts.empty() || out.sums.size() % out.counts.size() != 0)
    fail(ErrorKind::input, "{}: \"{}\" has {} values and \"{}\" {}: they do not divide", where,
         sums.spec.name, out.sums.size(), counts.spec.name, out.counts.size());
  return out;
}

void read_keys(Importance& out, const GgufMetadata& metadata) {
  const std::string* type = metadata.string("general.type");
  if (type && *type != "imatrix")
    fail(ErrorKind::input, "{}: a GGUF file of type \"{}\", expected an importance matrix (\"imatrix\")",
         out.where, *type);
  const auto* datasets = metadata.array<std::string>("imatrix.datasets");
  const auto chunks = metadata.integer("imatrix.chunk_count"), size = metadata.integer("imatrix.chunk_size");
  if (!datasets || !chunks || !size)
    fail(ErrorKind::input,
         "{}: no importance matrix: \"imatrix.datasets\", \"imatrix.chunk_count\" or \"imatrix.chunk_size\" "
         "is missing",
         out.where);
  if (*chunks < 0 || *size < 0)
    fail(ErrorKind::input, "{}: damaged: {} chunks of {} tokens", out.where, *chunks, *size);
  out.datasets = *datasets;
  out.chunks = *chunks;
  out.chunk_size = *size;
}

void read_gguf(Importance& out, std::span<const std::byte> file) {
  const GgufHeader header = parse_gguf(file, out.where);
  read_keys(out, header.metadata);
  std::map<std::string, std::pair<const GgufTensor*, const GgufTensor*>> pairs;
  for (const GgufTensor& tensor : header.tensors) {
    const std::string_view name = tensor.spec.name;
    if (name.ends_with(kSums))
      pairs[std::string(name.substr(0, name.size() - kSums.size()))].first = &tensor;
    else if (name.ends_with(kCounts))
      pairs[std::string(name.substr(0, name.size() - kCounts.size()))].second = &tensor;
  }
  for (const auto& [name, pair] : pairs) {
    if (!pair.first || !pair.second)
      fail(ErrorKind::input, "{}: \"{}{}\" is there, \"{}{}\" is missing", out.where, name,
           pair.first ? kSums : kCounts, name, pair.first ? kCounts : kSums);
    add(out, name, squares_of(*pair.first, *pair.second, file, out.where));
  }
}

// -------- the legacy format

class LegacyReader {
 public:
  LegacyReader(std::span<const std::byte> file, const std::string& where) : file_(file), where_(where) {}

  bool at_end() const { return position_ == file_.size(); }

  int32_t number(std::string_view what) {
    int32_t value;
    if (file_.size() - position_ < sizeof value) refuse("the number of {} is missing", what);
    std::memcpy(&value, file_.data() + position_, sizeof value);
    position_ += sizeof value;
    return value;
  }

  /// A number of things of `size` bytes, at least `least`, and then their bytes.
  std::span<const std::byte> list(int32_t least, size_t size, std::string_view what) {
    const int32_t count = number(what);
    if (count < least || static_cast<size_t>(count) > (file_.size() - position_) / size)
      refuse("{} {} are announced", count, what);
    const auto taken = file_.subspan(position_, static_cast<size_t>(count) * size);
    position_ += taken.size();
    return taken;
  }

  std::string text(int32_t least, std::string_view what) {
    const std::span<const std::byte> bytes = list(least, 1, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::input,
         "{}: no importance matrix, or a damaged one: it does not begin with \"GGUF\", and in the legacy "
         "format {} at byte {} of {}",
         where_, fmt::format(format, std::forward<Args>(args)...), position_, file_.size());
  }

 private:
  std::span<const std::byte> file_;
  const std::string& where_;
  size_t position_ = 0;
};

void read_legacy(Importance& out, std::span<const std::byte> file) {
  LegacyReader reader(file, out.where);
  const int32_t entries = reader.number("entries");
  if (entries < 1) reader.refuse("{} entries are announced", entries);
  for (int32_t entry = 0; entry < entries; entry++) {
    const std::string name = reader.text(1, "characters of a name");
    const int32_t calls = reader.number("calls");
    const std::span<const std::byte> bytes = reader.list(1, sizeof(float), "values");
    if (out.tensors.contains(name))
      fail(ErrorKind::input, "{}: damaged: two entries \"{}\"", out.where, name);
    std::vector<float>& means = out.tensors[name];
    means.resize(bytes.size() / sizeof(float));
    std::memcpy(means.data(), bytes.data(), bytes.size());
    if (calls > 0)
      for (float& mean : means) mean /= static_cast<float>(calls);
  }
  if (reader.at_end()) return;
  out.chunks = std::max<int64_t>(0, reader.number("chunks"));
  if (reader.at_end()) return;
  if (std::string dataset = reader.text(0, "characters of a dataset"); !dataset.empty())
    out.datasets.push_back(std::move(dataset));
  if (!reader.at_end()) reader.refuse("something follows");
}

// -------- writing

std::string gguf_bytes(const Imatrix& imatrix, const std::vector<std::string>& datasets) {
  GgufMetadata metadata;
  metadata.set("general.type", std::string("imatrix"));
  metadata.set("imatrix.datasets", datasets);
  metadata.set("imatrix.chunk_count", static_cast<uint32_t>(imatrix.chunks));
  metadata.set("imatrix.chunk_size", static_cast<uint32_t>(imatrix.chunk_size));
  std::vector<TensorSpec> specs;
  for (const auto& [name, squares] : imatrix.tensors) {
    const auto matrices = std::ssize(squares.counts);
    const bool one = matrices == 1;  // ggml drops leading dimensions of one
    specs.push_back(
        {name + std::string(kSums), DType::f32,
         one ? Shape{std::ssize(squares.sums)} : Shape{matrices, std::ssize(squares.sums) / matrices}});
    specs.push_back({name + std::string(kCounts), DType::f32, one ? Shape{1} : Shape{matrices, 1}});
  }
  const GgufLayout layout = layout_gguf(metadata, specs);
  std::string out = layout.header;
  out.resize(static_cast<size_t>(layout.file_size));
  size_t next = 0;
  const auto put = [&](const std::vector<float>& values) {
    std::memcpy(out.data() + layout.offsets[next++], values.data(), values.size() * sizeof(float));
  };
  for (const auto& [name, squares] : imatrix.tensors) {
    put(squares.sums);
    put({squares.counts.begin(), squares.counts.end()});
  }
  return out;
}

}  // namespace

std::span<const float> Importance::means(const std::string& tensor, int64_t experts, int64_t columns) const {
  const auto found = tensors.find(tensor);
  if (found == tensors.end()) return {};
  if (std::ssize(found->second) / experts != columns || std::ssize(found->second) % experts != 0)
    fail(ErrorKind::usage,
         "{}: {} values for \"{}\", which has {} columns{}: the importance matrix of another model", where,
         found->second.size(), tensor, columns,
         experts == 1 ? "" : fmt::format(" in each of {} experts", experts));
  return found->second;
}

Importance read_importance(const fs::path& path) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  Importance out;
  out.where = path.string();
  if (text.starts_with("GGUF"))
    read_gguf(out, file.bytes());
  else
    read_legacy(out, file.bytes());
  if (out.tensors.empty()) fail(ErrorKind::input, "{}: the importance matrix is empty", out.where);
  check_means(out);
  return out;
}

Importance to_importance(const Imatrix& imatrix, std::vector<std::string> datasets) {
  Importance out;
  out.datasets = std::move(datasets);
  out.chunks = imatrix.chunks;
  out.chunk_size = imatrix.chunk_size;
  for (const auto& [name, squares] : imatrix.tensors) add(out, name, squares);
  return out;
}

void write_importance(const fs::path& file, const Imatrix& imatrix,
                      const std::vector<std::string>& datasets) {
  const std::string bytes = gguf_bytes(imatrix, datasets);
  PartialFile partial(fs::absolute(file));
  partial.file().write_at(0, std::as_bytes(std::span(bytes)));
  partial.commit();
}

}  // namespace moerge
