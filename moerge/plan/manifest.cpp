#include "moerge/plan/manifest.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "moerge/base/digest.h"
#include "moerge/base/error.h"
#include "moerge/base/parallel.h"
#include "moerge/base/version.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kFormat = 1;
constexpr int64_t kMaxManifest = 64 << 20;  // some hundred thousand tensors

// Feeds bytes of a file to both of the digests that there are.
void add_bytes(const File& file, int64_t offset, int64_t size, Digest* first, Digest* second,
               Progress* progress) {
  read_pieces(file, offset, size, [&](std::span<const std::byte> piece) {
    check_interrupted();
    for (Digest* digest : {first, second})
      if (digest) digest->add(piece);
    if (progress) progress->add(std::ssize(piece));
  });
}

// ------------------------------------------------------------------------------------------ making one

// Names of models in place of where they lie on this disk.
class PublicNames {
 public:
  explicit PublicNames(const std::vector<const Model*>& sources) {
    for (const Model* model : sources)
      for (const StoredTensor& tensor : model->checkpoint.tensors()) {
        models_.emplace(&tensor, model);
        add_places(tensor, model->name);
      }
  }

  std::string model(const StoredTensor& tensor) const {
    const auto found = models_.find(&tensor);
    return found == models_.end() ? place_of(tensor).filename().string() : found->second->name;
  }

  // Longer paths first: one may be the beginning of another.
  std::string text(std::string out) const {
    for (auto entry = places_.rbegin(); entry != places_.rend(); ++entry) {
      const std::string& place = entry->first.second;
      for (size_t at = out.find(place); at != std::string::npos;
           at = out.find(place, at + entry->second.size()))
        out.replace(at, place.size(), entry->second);
    }
    return out;
  }

 private:
  void add_places(const StoredTensor& tensor, const std::string& name) {
    if (tensor.derivation) {
      add_places(tensor.derivation->source, name);
      // An adapter: the model's own name says already what the user calls it.
      for (const StoredTensor& beside : tensor.derivation->beside)
        if (beside.file) add_place(place_of(beside), place_of(beside).filename().string());
    } else if (tensor.file) {
      add_place(place_of(tensor), name);
    }
  }
  void add_place(const fs::path& place, const std::string& name) {
    const std::string text = place.string();
    if (place.is_absolute()) places_.emplace(std::pair(text.size(), text), name);
  }

  std::unordered_map<const StoredTensor*, const Model*> models_;
  std::map<std::pair<size_t, std::string>, std::string> places_;
};

Json describe_change(const Part& part, DType out, const PublicNames& names) {
  const StoredTensor& source = *part.source;
  if (part.is_copied(out)) return {};
  Json change = Json::object();
  if (source.derivation) change["derivation"] = names.text(source.derivation->how);
  if (source.rotary_heads != 0) change["rotary_heads"] = source.rotary_heads;
  if (source.spec.dtype != out) change["dtype"] = std::string(info(source.spec.dtype).name());
  if (part.noise_scale != 0) change["noise"] = part.noise_scale;
  if (part.residual_scale != 1) change["scale"] = part.residual_scale;
  return change;
}

// Both the whole of a tensor and its parts, read once.
void hash_tensor(const StoredTensor& stored, ManifestTensor& out, Progress& progress) {
  const File& file = stored.file->file();
  if (out.parts.size() <= 1) {
    out.sha256 = hash_bytes(file, stored.offset, stored.spec.bytes(), &progress);
    return;
  }
  Digest whole(Hash::sha256);
  int64_t offset = stored.offset;
  for (ManifestPart& part : out.parts) {
    Digest digest(Hash::sha256);
    add_bytes(file, offset, part.bytes, &whole, &digest, &progress);
    part.written = digest.hex();
    offset += part.bytes;
  }
  out.sha256 = whole.hex();
}

std::vector<ManifestFile> list_files(const fs::path& folder, const std::set<std::string>& weights) {
  std::vector<ManifestFile> out;
  for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::recursive_directory_iterator();
       ++entry) {
    if (entry->path().filename().string().starts_with('.')) {
      entry.disable_recursion_pending();
      continue;
    }
    const std::string name = entry->path().lexically_relative(folder).generic_string();
    if (!entry->is_regular_file() || name == kManifestName || weights.contains(name)) continue;
    const File file = File::open_read(entry->path());
    const int64_t size = file.size();
    const std::string sha256 = hash_bytes(file, 0, size, nullptr);
    out.push_back({.name = name, .size = size, .sha256 = sha256});
  }
  std::ranges::sort(out, {}, &ManifestFile::name);
  return out;
}

// ------------------------------------------------------------------------------------- its text and back

std::string line_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json tensor_json(const ManifestTensor& tensor) {
  Json out = {{"name", tensor.spec.name},
              {"file", tensor.file},
              {"dtype", std::string(info(tensor.spec.dtype).safetensors)},
              {"shape", tensor.spec.shape},
              {"sha256", tensor.sha256}};
  if (tensor.parts.empty()) out["computed"] = tensor.computed;
  for (const ManifestPart& part : tensor.parts) {
    Json entry = {{"model", part.model}, {"tensor", part.tensor}, {"sha256", part.sha256}};
    entry["change"] = part.change.is_null() ? Json("copied") : part.change;
    if (!part.written.empty()) {
      entry["bytes"] = part.bytes;
      entry["written"] = part.written;
    }
    out["parts"].push_back(std::move(entry));
  }
  return out;
}

template <typename Range, typename ToJson>
std::string list_text(const Range& rows, const ToJson& to_json) {
  std::string out = "[";
  for (const auto& row : rows) {
    out += out.size() == 1 ? "\n    " : ",\n    ";
    out += line_of(to_json(row));
  }
  return out + "\n  ]";
}

// Reads a manifest that may be anything.
class ManifestReader {
 public:
  explicit ManifestReader(const fs::path& file) : where_(file.string()) {
    constexpr std::string_view kKeep[] = {
        "moerge_manifest", "moerge_version", "tensors", "files",  "name",  "file",    "dtype",    "shape",
        "sha256",          "parts",          "model",   "tensor", "bytes", "written", "computed", "size"};
    json_ = parse_json_only(kKeep, read_file(file, kMaxManifest), where_);
  }

  Manifest read() {
    if (!json_.is_object()) refuse("a JSON object is expected");
    const std::optional<int64_t> format = json_int(json_, "moerge_manifest", where_);
    if (!format || *format < 1) refuse("\"moerge_manifest\" should be its format's number");
    if (*format > kFormat)
      fail(ErrorKind::unsupported, "{}: of format {}; this moerge ({}) reads up to {}: take a newer one",
           where_, *format, kVersion, kFormat);
    Manifest out;
    out.moerge_version = text(json_, "moerge_version");
    std::set<std::string> names;
    for (const Json& entry : list(json_, "tensors")) {
      out.tensors.push_back(tensor(entry));
      if (!names.insert(out.tensors.back().spec.name).second)
        refuse(fmt::format("two tensors named \"{}\"", out.tensors.back().spec.name));
    }
    if (out.tensors.empty()) refuse("it has no tensors");
    for (const Json& entry : list(json_, "files")) {
      ManifestFile& file = out.files.emplace_back();
      file.name = file_name(entry, "name", true);
      file.size = size(entry, "size");
      file.sha256 = hash(entry, "sha256");
      if (!names.insert("file " + out.files.back().name).second)
        refuse(fmt::format("two files named \"{}\"", out.files.back().name));
    }
    return out;
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    fail(ErrorKind::input, "{}: no sound manifest: {}", where_, why);
  }

  const Json& list(const Json& object, const char* key) const {
    const auto found = object.find(key);
    if (found == object.end() || !found->is_array()) refuse(fmt::format("\"{}\" should be a list", key));
    return *found;
  }
  std::string text(const Json& object, const char* key) const {
    if (!object.is_object()) refuse("an object is expected where \"" + std::string(key) + "\" belongs");
    const std::optional<std::string> found = json_string(object, key, where_);
    if (!found) refuse(fmt::format("\"{}\" is missing", key));
    return *found;
  }
  std::string hash(const Json& object, const char* key) const {
    const std::string found = text(object, key);
    if (!is_hex(found, 64))
      refuse(
          fmt::format("\"{}\": 64 hexadecimal digits are expected, found \"{}\"", key, found.substr(0, 80)));
    return found;
  }
  int64_t size(const Json& object, const char* key) const {
    const std::optional<int64_t> found = json_int(object, key, where_);
    if (!found || *found < 0) refuse(fmt::format("\"{}\" should be a size in bytes", key));
    return *found;
  }
  // Of a file in the folder: it must not lead elsewhere.
  std::string file_name(const Json& object, const char* key, bool in_folders) const {
    const std::string found = text(object, key);
    bool sound = !found.empty() && found.find_first_of(std::string_view("\\\0", 2)) == std::string::npos;
    for (size_t start = 0; sound && start <= found.size();) {
      const size_t end = std::min(found.find('/', start), found.size());
      const std::string part = found.substr(start, end - start);
      sound = !part.empty() && part != "." && part != ".." && (in_folders || end == found.size());
      start = end + 1;
    }
    if (!sound)
      refuse(fmt::format("\"{}\": the name of a file in the folder is expected, found \"{}\"", key, found));
    return found;
  }

  ManifestTensor tensor(const Json& entry) const {
    // Member by member: GCC 12 frees what an aggregate has twice when a later initialiser throws.
    ManifestTensor out;
    out.spec.name = text(entry, "name");
    out.file = file_name(entry, "file", false);
    out.sha256 = hash(entry, "sha256");
    const std::string dtype = text(entry, "dtype");
    const auto row = std::ranges::find_if(
        dtype_table(), [&](const DTypeInfo& known) { return !dtype.empty() && known.safetensors == dtype; });
    if (row == dtype_table().end()) refuse(fmt::format("\"{}\": unknown dtype \"{}\"", out.spec.name, dtype));
    out.spec.dtype = row->dtype;
    for (const Json& dimension : list(entry, "shape")) {
      if (!dimension.is_number_unsigned() || out.spec.shape.size() >= 16 ||
          dimension.get<uint64_t>() > INT64_MAX)
        refuse(fmt::format("\"{}\": its shape is none", out.spec.name));
      out.spec.shape.push_back(dimension.get<int64_t>());
    }
    if (!checked_count(out.spec.shape)) refuse(fmt::format("\"{}\": its shape is too large", out.spec.name));
    if (entry.contains("computed"))
      out.computed = text(entry, "computed");
    else
      for (const Json& part : list(entry, "parts")) {
        ManifestPart& made = out.parts.emplace_back();
        made.model = text(part, "model");
        made.tensor = text(part, "tensor");
        made.sha256 = hash(part, "sha256");
      }
    if (out.parts.size() > 1) read_parts(entry["parts"], out);
    return out;
  }

  void read_parts(const Json& entries, ManifestTensor& out) const {
    int64_t left = out.spec.bytes();
    for (size_t i = 0; i < out.parts.size(); i++) {
      out.parts[i].bytes = size(entries[i], "bytes");
      out.parts[i].written = hash(entries[i], "written");
      if (out.parts[i].bytes > left) left = -1;
      if (left < 0) break;
      left -= out.parts[i].bytes;
    }
    if (left != 0)
      refuse(fmt::format("\"{}\": its parts do not add up to its {} bytes", out.spec.name, out.spec.bytes()));
  }

  std::string where_;
  Json json_;
};

}  // namespace

std::string ManifestTensor::sources() const {
  std::string out;
  for (const ManifestPart& part : parts)
    out += fmt::format("{}{}: {}", out.empty() ? "" : " + ", part.model, part.tensor);
  return parts.empty() ? computed : out;
}

std::string hash_bytes(const File& file, int64_t offset, int64_t size, Progress* progress) {
  Digest digest(Hash::sha256);
  add_bytes(file, offset, size, &digest, nullptr, progress);
  return digest.hex();
}

std::string hash_source(const StoredTensor& tensor, Progress* progress) {
  Digest digest(Hash::sha256);
  for (const StoredTensor* part : stored_sources(tensor))
    add_bytes(part->file->file(), part->offset, part->spec.bytes(), &digest, nullptr, progress);
  return digest.hex();
}

int64_t source_size(const StoredTensor& tensor) {
  int64_t bytes = 0;
  for (const StoredTensor* part : stored_sources(tensor)) bytes += part->spec.bytes();
  return bytes;
}

Manifest make_manifest(const Plan& plan, const std::vector<const Model*>& sources, const Checkpoint& written,
                       const HashOptions& options) {
  const PublicNames names(sources);
  Manifest out = {.moerge_version = std::string(kVersion), .tensors = {}, .files = {}};
  std::set<std::string> weights;
  std::map<const StoredTensor*, std::string> changed;  // their hashes, which no copy in the output tells
  int64_t bytes = 0;
  for (const Step& step : plan.steps) {
    const StoredTensor& stored = written.at(step.out.name);
    ManifestTensor& tensor = out.tensors.emplace_back(ManifestTensor{
        .spec = step.out, .file = stored.file->file().path().filename().string(), .sha256 = {}});
    weights.insert(tensor.file);
    bytes += step.out.bytes();
    if (const Fill* fill = std::get_if<Fill>(&step.how)) {
      tensor.computed = names.text(fill->description);
      continue;
    }
    for (const Part& part : std::get<Concat>(step.how).parts) {
      tensor.parts.push_back({.model = names.model(*part.source),
                              .tensor = part.source->spec.name,
                              .sha256 = {},
                              .change = describe_change(part, step.out.dtype, names),
                              .bytes = byte_size(step.out.dtype, part.source->spec.elements())});
      if (!part.is_copied(step.out.dtype) && changed.emplace(part.source, "").second)
        bytes += source_size(*part.source);
    }
  }
  Progress progress(options.reporter, "hashed", bytes);
  const std::vector<std::pair<const StoredTensor* const, std::string>*> to_hash = [&] {
    std::vector<std::pair<const StoredTensor* const, std::string>*> rows;
    for (auto& row : changed) rows.push_back(&row);
    return rows;
  }();
  const size_t tensors = out.tensors.size();
  parallel_for(tensors + to_hash.size(), options.threads, [&](size_t i) {
    if (i < tensors)
      hash_tensor(written.at(out.tensors[i].spec.name), out.tensors[i], progress);
    else
      to_hash[i - tensors]->second = hash_source(*to_hash[i - tensors]->first, &progress);
  });
  for (size_t i = 0; i < tensors; i++) {
    const Concat* concat = std::get_if<Concat>(&plan.steps[i].how);
    if (!concat) continue;
    ManifestTensor& tensor = out.tensors[i];
    for (size_t p = 0; p < tensor.parts.size(); p++) {
      ManifestPart& part = tensor.parts[p];
      const auto hashed = changed.find(concat->parts[p].source);
      const bool copied = part.change.is_null();
      part.sha256 = !copied ? hashed->second : part.written.empty() ? tensor.sha256 : part.written;
    }
  }
  out.files = list_files(written.path(), weights);
  progress.finish();
  return out;
}

std::string manifest_text(const Manifest& manifest) {
  return fmt::format(
      "{{\n  \"moerge_manifest\": {},\n  \"moerge_version\": {},\n  \"tensors\": {},\n  \"files\": {}\n}}\n",
      kFormat, line_of(manifest.moerge_version), list_text(manifest.tensors, tensor_json),
      list_text(manifest.files, [](const ManifestFile& file) {
        return Json{{"name", file.name}, {"size", file.size}, {"sha256", file.sha256}};
      }));
}

Manifest read_manifest(const fs::path& folder) { return ManifestReader(folder / kManifestName).read(); }

}  // namespace moerge
