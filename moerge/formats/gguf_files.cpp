#include "moerge/formats/gguf_files.h"

#include <algorithm>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/lower_case.h"
#include "moerge/formats/weight_files.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kExtension = ".gguf";
constexpr int64_t kMaxParts = 99'999;  // five digits

// "NAME-00002-of-00003.gguf" (gguf-split's and llama.cpp's spelling).
struct PartName {
  std::string stem;  // "NAME"
  int64_t number, count;
};

std::string spell(const PartName& part) {
  return fmt::format("{}-{:05}-of-{:05}{}", part.stem, part.number, part.count, kExtension);
}

std::optional<PartName> parse_part_name(std::string_view name) {
  constexpr std::string_view kPattern = "-00000-of-00000.gguf";
  if (name.size() <= kPattern.size()) return {};
  const std::string_view end = name.substr(name.size() - kPattern.size());
  PartName part = {std::string(name.substr(0, name.size() - kPattern.size())), 0, 0};
  for (size_t i = 0; i < kPattern.size(); i++) {
    if (kPattern[i] != '0') {
      if (end[i] != kPattern[i]) return {};
      continue;
    }
    if (end[i] < '0' || end[i] > '9') return {};
    int64_t& value = i < 6 ? part.number : part.count;
    value = value * 10 + (end[i] - '0');
  }
  if (part.number < 1 || part.number > part.count) return {};
  return part;
}

// Opens one file and appends its tensors; returns its metadata.
GgufMetadata add_file(GgufFiles& set, const fs::path& path, std::set<std::string>& names) {
  const MappedFile& file = *set.files.emplace_back(std::make_unique<MappedFile>(path));
  GgufHeader header = parse_gguf(file.bytes(), path.string());
  std::ranges::sort(header.tensors, {}, &GgufTensor::offset);
  for (GgufTensor& tensor : header.tensors) {
    if (!names.insert(tensor.spec.name).second)
      fail(ErrorKind::input, "{}: tensor \"{}\" is in an earlier part already", path.string(),
           tensor.spec.name);
    set.tensors.push_back({std::move(tensor), &file});
  }
  return std::move(header.metadata);
}

// The parts after the first, `count` in all.
void add_parts(GgufFiles& set, int64_t count, std::set<std::string>& names) {
  const std::string where = set.path.string();
  std::optional<PartName> name = parse_part_name(set.path.filename().string());
  const int64_t number = set.metadata.integer("split.no").value_or(0);
  if (count > kMaxParts || number < 0 || number >= count)
    fail(ErrorKind::input, "{}: damaged: part {} of {}", where, number + 1, count);
  if (!name || name->count != count)
    fail(ErrorKind::input,
         "{}: one of {} parts, and it is not called so: NAME-00001-of-{:05}.gguf is expected", where, count,
         count);
  if (number != 0)
    fail(ErrorKind::input, "{}: part {} of {}: name the first one, {}", where, number + 1, count,
         spell({name->stem, 1, count}));
  for (int64_t i = 1; i < count; i++) {
    const fs::path path = set.path.parent_path() / spell({name->stem, i + 1, count});
    if (!fs::exists(path))
      fail(ErrorKind::input, "{}: part {} of {}, {}, is missing (an unfinished download?)", where, i + 1,
           count, path.filename().string());
    const GgufMetadata metadata = add_file(set, path, names);
    if (metadata.integer("split.count") != count || metadata.integer("split.no") != i)
      fail(ErrorKind::input, "{}: says that it is part {} of {}, not part {} of {}", path.string(),
           metadata.integer("split.no").value_or(0) + 1, metadata.integer("split.count").value_or(1), i + 1,
           count);
  }
  const std::optional<int64_t> tensors = set.metadata.integer("split.tensors.count");
  if (tensors && *tensors != std::ssize(set.tensors))
    fail(ErrorKind::input, "{}: its parts hold {} tensors, {} are announced", where, set.tensors.size(),
         *tensors);
}

}  // namespace

const GgufFiles::Tensor* GgufFiles::find(std::string_view name) const {
  const auto found =
      std::ranges::find_if(tensors, [&](const Tensor& t) { return t.tensor.spec.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

GgufFiles open_gguf(const fs::path& path) {
  GgufFiles set;
  set.path = path;
  std::set<std::string> names;
  set.metadata = add_file(set, path, names);
  if (const int64_t count = set.metadata.integer("split.count").value_or(1); count > 1)
    add_parts(set, count, names);
  return set;
}

std::optional<fs::path> find_gguf(const fs::path& folder) {
  if (find_weight_layout(folder)) return {};
  std::set<std::string> found;  // a split file by its first part
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (!is_gguf_name(entry.path()) || !entry.is_regular_file()) continue;
    const std::string name = entry.path().filename().string();
    const std::optional<PartName> part = parse_part_name(name);
    found.insert(part ? spell({part->stem, 1, part->count}) : name);
  }
  if (found.empty()) return {};
  if (found.size() > 1)
    fail(ErrorKind::unsupported,
         "{}: {} GGUF files in this folder and no other weights: name the one you mean ({})", folder.string(),
         found.size(), fmt::join(found, ", "));
  const fs::path path = folder / *found.begin();
  if (!fs::exists(path))
    fail(ErrorKind::input, "{}: {} is missing (an unfinished download?)", folder.string(),
         path.filename().string());
  return path;
}

bool is_gguf_name(const fs::path& path) { return lower_case(path.extension().string()) == kExtension; }

}  // namespace moerge
