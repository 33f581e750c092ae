#include "moerge/moe/text_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/lower_case.h"
#include "moerge/base/suggest.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxEntries = 1'000'000;  // of a folder: more is a mistake
constexpr size_t kMaxShown = 5;

std::string extension_of(const fs::path& path) { return lower_case(path.extension().string()); }

std::optional<TextFormat> format_of(const fs::path& path) {
  const std::string extension = extension_of(path);
  if (extension == ".txt") return TextFormat::plain;
  if (extension == ".jsonl") return TextFormat::rows;
  return {};
}

// What can be done about a file of another kind; starts with ": " or is empty.
std::string advice(const std::string& extension) {
  if (extension == ".json")
    return ": write it as .jsonl, one JSON object a line ({\"text\": \"...\"} or {\"messages\": [...]})";
  if (extension == ".parquet" || extension == ".arrow" || extension == ".csv" || extension == ".tsv")
    return ": export it to .jsonl (Dataset.to_json of the datasets library, or pandas' to_json with "
           "orient=\"records\" and lines=True)";
  if (extension == ".gz" || extension == ".zst" || extension == ".zip" || extension == ".xz" ||
      extension == ".bz2")
    return ": unpack it first";
  return "";
}

TextFile file_at(const fs::path& path, TextFormat format, bool named) {
  return {path, format, static_cast<int64_t>(fs::file_size(path)), named};
}

// A folder's text files; `others` gets the extensions of what else is there.
std::vector<TextFile> list_folder(const TextSource& source, std::set<std::string>& others) {
  std::vector<TextFile> files;
  int64_t entries = 0;
  for (fs::recursive_directory_iterator it(source.path), end; it != end; ++it) {
    if (++entries > kMaxEntries)
      fail(ErrorKind::config, "{}: {} holds more than {} files: name the right ones", source.place,
           source.path.string(), kMaxEntries);
    if (it->path().filename().string().starts_with('.')) {
      it.disable_recursion_pending();
      continue;
    }
    std::error_code error;
    if (!fs::is_regular_file(it->path(), error)) continue;
    if (const auto format = format_of(it->path()))
      files.push_back(file_at(it->path(), *format, false));
    else
      others.insert(extension_of(it->path()));
  }
  std::ranges::sort(files, {}, [](const TextFile& file) { return file.path.native(); });
  return files;
}

std::string describe_others(const std::set<std::string>& others) {
  if (others.empty()) return "; it holds no files";
  std::string out = "; it holds";
  size_t shown = 0;
  for (const std::string& extension : others) {
    if (++shown > kMaxShown) return out + " and others";
    out += fmt::format("{} {}", shown == 1 ? "" : ",",
                       extension.empty() ? "files without an ending" : extension);
  }
  for (const std::string& extension : others)
    if (!advice(extension).empty()) return out + fmt::format(" ({}{})", extension, advice(extension));
  return out;
}

[[noreturn]] void fail_missing(const TextSource& source) {
  std::vector<std::string> names;
  std::error_code error;
  const fs::path folder = source.path.parent_path();
  for (fs::directory_iterator it(folder.empty() ? "." : folder, error), end; !error && it != end;
       it.increment(error)) {
    names.push_back(it->path().filename().string());
    if (names.size() > 10'000) break;
  }
  std::ranges::sort(names);
  const std::vector<std::string_view> candidates(names.begin(), names.end());
  const std::string close = nearest(source.path.filename().string(), candidates);
  fail(ErrorKind::config, "{}: there is no {}{}", source.place, source.path.string(),
       close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", (folder / close).string()));
}

void add_files(const TextSource& source, std::vector<TextFile>& files) {
  const fs::file_status status = fs::status(source.path);
  if (status.type() == fs::file_type::not_found) fail_missing(source);
  if (fs::is_directory(status)) {
    std::set<std::string> others;
    const std::vector<TextFile> found = list_folder(source, others);
    if (found.empty())
      fail(ErrorKind::config, "{}: there is no .txt or .jsonl file in {}{}", source.place,
           source.path.string(), describe_others(others));
    files.insert(files.end(), found.begin(), found.end());
    return;
  }
  if (!fs::is_regular_file(status))
    fail(ErrorKind::config, "{}: {} is neither a file nor a folder", source.place, source.path.string());
  const auto format = format_of(source.path);
  if (!format)
    fail(ErrorKind::config, "{}: text is read from .txt and .jsonl files, and {} is none{}", source.place,
         source.path.string(), advice(extension_of(source.path)));
  files.push_back(file_at(source.path, *format, true));
}

}  // namespace

std::string public_name(const TextSource& source) {
  const fs::path path = fs::path(source.written).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

std::vector<TextFile> find_text_files(std::span<const TextSource> sources) {
  std::vector<TextFile> files;
  for (const TextSource& source : sources) {
    try {
      add_files(source, files);
    } catch (const fs::filesystem_error& error) {
      fail(ErrorKind::io, "{}: {}: {}", source.place, source.path.string(), error.code().message());
    }
  }
  return files;
}

}  // namespace moerge
