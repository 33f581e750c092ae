#include "moerge/plan/verify_folder.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/parallel.h"
#include "moerge/formats/safetensors.h"
#include "moerge/formats/shards.h"
#include "moerge/formats/weight_files.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr const char *kSingle = kSingleShard, *kIndex = kShardIndex;
constexpr int64_t kMaxJson = 256 << 20;  // of a file beside the weights that is looked into
constexpr size_t kShownNames = 3;

std::string shown_names(const std::vector<std::string>& names) {
  std::string out;
  for (size_t i = 0; i < std::min(names.size(), kShownNames); i++)
    out += fmt::format("{}\"{}\"", i == 0 ? "" : ", ", names[i]);
  if (names.size() > kShownNames) out += fmt::format(" and {} more", names.size() - kShownNames);
  return out;
}

std::string count_tensors(size_t count) { return fmt::format("{} tensor{}", count, count == 1 ? "" : "s"); }

std::string shown_type(const TensorSpec& spec) {
  return fmt::format("{} {}", info(spec.dtype).name(), to_string(spec.shape));
}

// What is read goes on without it: damage is what this is about.
template <typename Work>
std::optional<std::string> error_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::interrupted) throw;
    return error.message();
  } catch (const fs::filesystem_error& error) {
    return fmt::format("{}: {}", error.path1().string(), error.code().message());
  }
  return {};
}

bool is_regular(const fs::path& file) {
  std::error_code ignored;
  return fs::is_regular_file(file, ignored);
}

// A tensor as the folder has it now.
struct FoundTensor {
  TensorSpec spec;
  const MappedFile* file;
  std::string file_name;
  int64_t offset;
  std::string sha256 = {};      // empty: it could not be read
  std::string unreadable = {};  // why
};

class FolderCheck {
 public:
  FolderCheck(const fs::path& folder, const Manifest& manifest, const HashOptions& options)
      : folder_(folder), manifest_(manifest), options_(options) {
    for (const ManifestTensor& tensor : manifest.tensors) {
      expected_.emplace(tensor.spec.name, &tensor);
      manifest_files_.insert(tensor.file);
    }
  }

  VerifyReport run() {
    const auto start = std::chrono::steady_clock::now();
    report_.tensors = std::ssize(manifest_.tensors);
    open_weights();
    hash_all();
    compare_index();
    compare_tensors();
    compare_files();
    report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(report_);
  }

 private:
  void problem(std::string kind, std::string text, std::string file = {},
               std::vector<std::string> tensors = {}) {
    report_.problems.push_back({std::move(kind), std::move(text), std::move(file), std::move(tensors)});
  }
  void note(std::string kind, std::string text, std::string file = {},
            std::vector<std::string> tensors = {}) {
    report_.notes.push_back({std::move(kind), std::move(text), std::move(file), std::move(tensors)});
  }

  // --------------------------------------------------------------------------------- files of weights

  // Those that loaders open, then those of the manifest that they would not: what is not lost is found there.
  void open_weights() {
    std::set<std::string> loaded;
    const bool has_single = is_regular(folder_ / kSingle);
    std::error_code ignored;
    if (fs::exists(folder_ / kIndex, ignored)) {
      if (const auto error = error_of([&] { index_ = read_weight_index(folder_ / kIndex); }))
        problem("index", *error, kIndex);
      else
        has_index_ = true;
      for (const auto& [name, file] : index_) loaded.insert(file);
      if (has_index_ && has_single && !loaded.contains(kSingle))
        problem("index",
                fmt::format("{} lies beside {}: transformers loads it instead of the shards; remove one of "
                            "the two",
                            kSingle, kIndex),
                kSingle);
    } else if (has_single) {
      loaded.insert(kSingle);
    } else if (!manifest_files_.contains(kSingle)) {
      problem("index", fmt::format("{} is missing: without it no program finds the shards", kIndex), kIndex);
    }
    if (loaded.empty()) loaded = manifest_files_;
    std::map<std::string, std::string> broken;  // file -> why
    for (const std::string& file : loaded)
      if (const auto why = open_file(file, false)) broken.emplace(file, *why);
    for (const std::string& file : manifest_files_)
      if (!loaded.contains(file)) open_file(file, true);
    report_broken(broken);
    report_.files = std::ssize(files_);
  }

  // Why it could not be opened, or nothing.
  std::optional<std::string> open_file(const std::string& name, bool is_leftover) {
    const fs::path path = folder_ / name;
    std::error_code ignored;
    if (!fs::exists(path, ignored)) return fmt::format("{} is missing", name);
    if (!is_regular(path)) return fmt::format("{} is no regular file", path.string());
    std::unique_ptr<MappedFile> file;
    std::vector<WeightEntry> entries;
    const auto error = error_of([&] {
      const WeightReader read = weight_reader(path);
      file = std::make_unique<MappedFile>(path);
      entries = read(file->bytes(), path.string());
    });
    if (error) return error;
    check_metadata(name, *file);
    for (WeightEntry& entry : entries) {
      const std::string tensor = entry.spec.name;
      const auto known = found_.find(tensor);
      FoundTensor now = {
          .spec = std::move(entry.spec), .file = file.get(), .file_name = name, .offset = entry.offset};
      if (known == found_.end()) {
        found_.emplace(tensor, std::move(now));
        continue;
      }
      if (is_leftover) continue;
      problem("index",
              fmt::format("\"{}\" is in two files, {} and {}", tensor, known->second.file_name, name), name,
              {tensor});
      if (const auto place = index_.find(tensor); place != index_.end() && place->second == name)
        known->second = std::move(now);
    }
    files_.push_back(std::move(file));
    return {};
  }

  // Some versions of transformers refuse a file that does not say what the build wrote there.
  void check_metadata(const std::string& name, const MappedFile& file) {
    if (!manifest_files_.contains(name) || !name.ends_with(".safetensors")) return;
    const SafetensorsHeader header = parse_safetensors(file.bytes(), name);
    const auto format = header.metadata.find("format");
    if (format == header.metadata.end() || format->second != "pt")
      problem("header", fmt::format("{}: its metadata no longer say {{\"format\": \"pt\"}}", name), name);
  }

  // What is lost with the files that are missing or damaged.
  void report_broken(const std::map<std::string, std::string>& broken) {
    std::map<std::string, std::vector<std::string>> lost;
    for (const ManifestTensor& tensor : manifest_.tensors) {
      if (found_.contains(tensor.spec.name)) continue;
      const auto place = index_.find(tensor.spec.name);
      const std::string& file = place == index_.end() ? tensor.file : place->second;
      if (!broken.contains(file)) continue;
      lost[file].push_back(tensor.spec.name);
      lost_.insert(tensor.spec.name);
    }
    for (const auto& [file, why] : broken) {
      std::vector<std::string>& names = lost[file];
      const bool there = is_regular(folder_ / file);
      const std::string loss = names.empty()
                                   ? std::string("; the index names it")
                                   : fmt::format(": {} {} lost with it: {}", count_tensors(names.size()),
                                                 names.size() == 1 ? "is" : "are", shown_names(names));
      problem(there ? "damaged_file" : "missing_file", why + loss, file, names);
    }
  }

  // ---------------------------------------------------------------------------------------- the bytes

  void hash_all() {
    std::vector<FoundTensor*> tensors;
    for (auto& [name, tensor] : found_) tensors.push_back(&tensor);
    std::ranges::sort(tensors, [](const FoundTensor* a, const FoundTensor* b) {
      return std::tie(a->file_name, a->offset, a->spec.name) <
             std::tie(b->file_name, b->offset, b->spec.name);
    });
    for (const FoundTensor* tensor : tensors) report_.bytes += tensor->spec.bytes();
    Progress progress(options_.reporter, "checked", report_.bytes);
    parallel_for(tensors.size(), options_.threads, [&](size_t i) {
      FoundTensor& tensor = *tensors[i];
      if (const auto error = error_of([&] {
            tensor.sha256 = hash_bytes(tensor.file->file(), tensor.offset, tensor.spec.bytes(), &progress);
          }))
        tensor.unreadable = *error;
    });
    progress.finish();
  }

  // Whose bytes these are, by the manifest; empty where it does not know them.
  std::string owner_of(const std::string& sha256) {
    if (owners_.empty()) {
      for (const ManifestTensor& tensor : manifest_.tensors)
        owners_.emplace(tensor.sha256,
                        fmt::format("what belongs to \"{}\" ({})", tensor.spec.name, tensor.sources()));
      for (const ManifestTensor& tensor : manifest_.tensors)
        for (size_t i = 0; i < tensor.parts.size(); i++) {
          const ManifestPart& part = tensor.parts[i];
          const std::string source = fmt::format("{}: {}", part.model, part.tensor);
          if (!part.written.empty())
            owners_.emplace(part.written, fmt::format("what belongs to part {} of \"{}\" ({})", i + 1,
                                                      tensor.spec.name, source));
          owners_.emplace(part.sha256, fmt::format("the bytes of {}", source));
        }
    }
    const auto known = owners_.find(sha256);
    return known == owners_.end() ? "" : known->second;
  }

  // Which parts of a stack are not right. (Read once more: this is rare.)
  std::string wrong_parts(const ManifestTensor& expected, const FoundTensor& found) {
    if (expected.parts.size() < 2 || found.spec.bytes() != expected.spec.bytes()) return {};
    std::string out;
    int64_t offset = found.offset;
    for (size_t i = 0; i < expected.parts.size(); i++) {
      const ManifestPart& part = expected.parts[i];
      const std::string hash = hash_bytes(found.file->file(), offset, part.bytes, nullptr);
      if (hash != part.written) {
        const std::string owner = owner_of(hash);
        out += fmt::format("; part {} of {} ({}: {}), bytes {} to {} of the file, ", i + 1,
                           expected.parts.size(), part.model, part.tensor, offset, offset + part.bytes);
        out += owner.empty() ? std::string("differs") : "holds " + owner;
      }
      offset += part.bytes;
    }
    return out;
  }

  void compare_tensors() {
    std::vector<std::string> moved;
    for (const ManifestTensor& expected : manifest_.tensors) {
      const std::string& name = expected.spec.name;
      const auto entry = found_.find(name);
      if (entry == found_.end()) {
        if (!lost_.contains(name))
          problem("missing_tensor", fmt::format("\"{}\" is in none of the files", name), expected.file,
                  {name});
        continue;
      }
      const FoundTensor& found = entry->second;
      const bool same_header =
          found.spec.dtype == expected.spec.dtype && found.spec.shape == expected.spec.shape;
      const bool same_bytes = found.sha256 == expected.sha256;
      if (same_header && same_bytes) {
        report_.right++;
        const auto where = index_.find(name);
        const bool told = where != index_.end() && where->second != found.file_name;  // of the index
        if (found.file_name != expected.file && !told) moved.push_back(name);
      } else {
        problem(same_header ? "bytes" : "header", describe_wrong(expected, found, same_header, same_bytes),
                found.file_name, {name});
      }
    }
    for (const auto& [name, found] : found_) {
      if (expected_.contains(name)) continue;
      const std::string owner = owner_of(found.sha256);
      problem("unknown_tensor",
              fmt::format("{}: \"{}\" is not part of the build{}", found.file_name, name,
                          owner.empty() ? "" : "; it holds " + owner),
              found.file_name, {name});
    }
    if (!moved.empty())
      note("moved",
           fmt::format("{} lie{} in other files than they were written to, and their bytes are right: {}",
                       count_tensors(moved.size()), moved.size() == 1 ? "s" : "", shown_names(moved)),
           {}, moved);
  }

  std::string describe_wrong(const ManifestTensor& expected, const FoundTensor& found, bool same_header,
                             bool same_bytes) {
    std::string out = fmt::format("{}: \"{}\"", found.file_name, expected.spec.name);
    if (!same_header)
      out += fmt::format(" is {}, and {} was written", shown_type(found.spec), shown_type(expected.spec));
    if (!same_header && same_bytes) return out + "; its bytes are the same: only the header was changed";
    if (!found.unreadable.empty()) return fmt::format("{} cannot be read: {}", out, found.unreadable);
    const std::string owner = owner_of(found.sha256);
    if (!owner.empty()) return fmt::format("{}{} holds {}", out, same_header ? "" : ";", owner);
    out += fmt::format("{} differs from what was written (bytes {} to {} of the file)",
                       same_header ? "" : "; it", found.offset, found.offset + found.spec.bytes());
    std::string parts;
    if (const auto error = error_of([&] { parts = wrong_parts(expected, found); }))
      return out + "; " + *error;
    return out + parts;
  }

  // -------------------------------------------------------------------------------------------- index

  void compare_index() {
    if (!has_index_) return;
    std::map<std::pair<std::string, std::string>, std::vector<std::string>> elsewhere;
    std::vector<std::string> unlisted, absent;
    for (const auto& [name, found] : found_) {
      const auto place = index_.find(name);
      if (place == index_.end())
        unlisted.push_back(name);
      else if (place->second != found.file_name)
        elsewhere[{place->second, found.file_name}].push_back(name);
    }
    for (const auto& [name, file] : index_)
      if (!found_.contains(name) && !expected_.contains(name)) absent.push_back(name);
    for (const auto& [files, names] : elsewhere)
      problem("index",
              fmt::format("{} points elsewhere: {} should be in {} and {} in {}: {}", kIndex,
                          count_tensors(names.size()), files.first, names.size() == 1 ? "is" : "are",
                          files.second, shown_names(names)),
              kIndex, names);
    if (!unlisted.empty())
      problem("index",
              fmt::format("{} lacks {}: {}", kIndex, count_tensors(unlisted.size()), shown_names(unlisted)),
              kIndex, unlisted);
    if (!absent.empty())
      problem("index",
              fmt::format("{} names {} that no file holds: {}", kIndex, count_tensors(absent.size()),
                          shown_names(absent)),
              kIndex, absent);
  }

  // ------------------------------------------------------------------------------------ the other files

  void compare_files() {
    for (const ManifestFile& expected : manifest_.files) {
      if (expected.name == kIndex) continue;  // read already, and what it says compared
      if (const auto error = error_of([&] { compare_file(expected); }))
        problem("file", *error, expected.name);
    }
  }

  void compare_file(const ManifestFile& expected) {
    const fs::path path = folder_ / expected.name;
    const std::string ending = path.extension().string();
    // What says something about the model and is not part of it.
    const bool is_text_about_it = ending == ".md" || ending == ".yml" || ending == ".yaml";
    std::error_code ignored;
    if (!fs::exists(path, ignored)) {
      const std::string text = fmt::format("{} is missing", expected.name);
      return is_text_about_it ? note("file", text, expected.name) : problem("file", text, expected.name);
    }
    if (!is_regular(path))
      return problem("file", fmt::format("{} is no regular file", path.string()), expected.name);
    const File file = File::open_read(path);
    const int64_t size = file.size();
    if (size == expected.size && hash_bytes(file, 0, size, nullptr) == expected.sha256) return;
    if (size == 0)
      return is_text_about_it
                 ? note("file", fmt::format("{} is empty", expected.name), expected.name)
                 : problem("file", fmt::format("{} is empty, and was not", expected.name), expected.name);
    if (ending == ".json") {
      if (const auto error = error_of([&] { parse_json_only({}, read_file(path, kMaxJson), expected.name); }))
        return problem("file", *error, expected.name);
    }
    const bool is_text =
        is_text_about_it || ending == ".json" || ending == ".txt" || ending == ".jinja" || ending == ".py";
    const std::string text = fmt::format("{} was changed after the build ({} then, {} now)", expected.name,
                                         human_bytes(expected.size), human_bytes(size));
    if (is_text) return note("file", text, expected.name);
    problem("file", text + ": it is no text that people edit", expected.name);
  }

  const fs::path folder_;
  const Manifest& manifest_;
  const HashOptions options_;
  VerifyReport report_;
  std::map<std::string, const ManifestTensor*> expected_;
  std::set<std::string> manifest_files_;      // of weights
  std::map<std::string, std::string> index_;  // tensor -> file
  bool has_index_ = false;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::map<std::string, FoundTensor> found_;
  std::set<std::string> lost_;                 // with files, told already
  std::map<std::string, std::string> owners_;  // sha256 -> whose
};

}  // namespace

VerifyReport verify_folder(const fs::path& folder, const Manifest& manifest, const HashOptions& options) {
  return FolderCheck(folder, manifest, options).run();
}

void verify_sources(const Manifest& manifest, const OpenSource& open, const HashOptions& options,
                    VerifyReport& report) {
  const auto start = std::chrono::steady_clock::now();
  std::map<std::string, std::map<std::string, std::string>> wanted;  // model -> tensor -> sha256
  for (const ManifestTensor& tensor : manifest.tensors)
    for (const ManifestPart& part : tensor.parts) wanted[part.model].emplace(part.tensor, part.sha256);
  struct Work {
    const StoredTensor* tensor;
    std::string model, sha256;
    std::string wrong = {};  // why
  };
  std::vector<std::unique_ptr<Model>> models;
  std::vector<Work> work;
  int64_t bytes = 0;
  for (const auto& [name, tensors] : wanted) {
    std::unique_ptr<Model> model;
    if (const auto error = error_of([&, &name = name] { model = open(name); })) {
      report.problems.push_back({"source", fmt::format("model \"{}\": {}", name, *error)});
      continue;
    }
    if (!model) {
      report.notes.push_back({"source", fmt::format("model \"{}\" is not here: not compared", name)});
      continue;
    }
    for (const auto& [tensor, sha256] : tensors) {
      const StoredTensor* stored = model->checkpoint.find(tensor);
      if (!stored) {
        report.problems.push_back(
            {"source", fmt::format("model \"{}\" has no \"{}\" any more", name, tensor), "", {tensor}});
        continue;
      }
      work.push_back({.tensor = stored, .model = name, .sha256 = sha256});
      bytes += source_size(*stored);
    }
    models.push_back(std::move(model));
  }
  Progress progress(options.reporter, "sources", bytes);
  parallel_for(work.size(), options.threads, [&](size_t i) {
    Work& one = work[i];
    std::string hash;
    if (const auto error = error_of([&] { hash = hash_source(*one.tensor, &progress); }))
      one.wrong = *error;
    else if (hash != one.sha256)
      one.wrong = "differs from what the build read";
  });
  if (bytes > 0) progress.finish();
  for (const Work& one : work)
    if (!one.wrong.empty())
      report.problems.push_back(
          {"source",
           fmt::format("model \"{}\": \"{}\": {}", one.model, one.tensor->spec.name, one.wrong),
           "",
           {one.tensor->spec.name}});
  report.bytes += bytes;
  report.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace moerge
