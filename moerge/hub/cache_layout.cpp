#include "moerge/hub/cache_layout.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>

#include "moerge/base/digest.h"
#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/json.h"
#include "moerge/hub/download_place.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxRefBytes = 1000, kMaxTreeBytes = 128 << 20;
constexpr int kTreeFormat = 1;

fs::path tree_file(const fs::path& folder, const std::string& commit) {
  return folder / "trees" / (commit + ".json");
}

// The files of a list that this or huggingface_hub wrote; throws input for what is none.
std::vector<HubFile> read_tree(const fs::path& path) {
  const std::string where = path.string();
  const Json tree = read_json(path, kMaxTreeBytes);
  const auto wrong = [&] { fail(ErrorKind::input, "{}: no list of files", where); };
  if (!tree.is_object() || json_int(tree, "format_version", where) != kTreeFormat) wrong();
  const auto files = tree.find("files");
  if (files == tree.end() || !files->is_object()) wrong();
  std::vector<HubFile> out;
  for (const auto& [name, row] : files->items()) {
    if (!row.is_object()) wrong();
    HubFile file = {.path = name,
                    .size = json_int(row, "size", where).value_or(-1),
                    .blob_id = json_string(row, "blob_id", where).value_or(""),
                    .sha256 = json_string(row, "lfs_sha256", where),
                    .xet_hash = json_string(row, "xet_hash", where).value_or("")};
    file.size = json_int(row, "lfs_size", where).value_or(file.size);
    if (!is_safe_path(file.path) || file.size < 0 || !is_hex(file.blob_id, 40) ||
        (file.sha256 && !is_hex(*file.sha256, 64)))
      wrong();
    out.push_back(std::move(file));
  }
  return out;
}

// Beside `path`, for what will be renamed to it.
fs::path unused_name(const fs::path& path) {
  static std::atomic<int> count{0};
  return path.parent_path() / fmt::format(".moerge-{}-{}.tmp", getpid(), count++);
}

// A link that replaces what has its name. False where the file system has no links.
bool replace_link(const std::string& target, const fs::path& link) {
  const fs::path fresh = unused_name(link);
  if (symlink(target.c_str(), fresh.c_str()) != 0) {
    if (errno == EPERM || errno == ENOSYS || errno == EOPNOTSUPP) return false;
    fail_errno("cannot make the link", link.string());
  }
  if (rename(fresh.c_str(), link.c_str()) == 0) return true;
  const int code = errno;
  unlink(fresh.c_str());
  errno = code;
  fail_errno("cannot make the link", link.string());
}

class CachePlace : public DownloadPlace {
 public:
  CachePlace(const HubRepository& repository, fs::path cache, bool symlinks)
      : repository_(repository),
        cache_(std::move(cache)),
        folder_(repository_folder(cache_, repository.name)),
        snapshot_(snapshot_folder(cache_, repository.name, repository.commit)),
        symlinks_(symlinks) {}

  fs::path folder() const override { return snapshot_; }
  bool has(const HubFile& file, const std::function<void()>&) const override {
    return regular_size(snapshot_ / file.path) == file.size;
  }
  bool has_bytes(const HubFile& file) const override { return regular_size(blob(file)) == file.size; }
  fs::path partial(const HubFile& file) const override {
    return folder_ / "blobs" / (file.etag() + ".incomplete");
  }
  fs::path lock(const HubFile& file) const override { return locks() / (file.etag() + ".lock"); }

  void begin() override {
    for (const fs::path& folder : {folder_ / "blobs", folder_ / "trees", snapshot_, locks()})
      fs::create_directories(folder);
    tag_cache_folder(cache_);
    const fs::path tree = tree_file(folder_, repository_.commit);
    const std::string text = tree_text(repository_);
    if (regular_size(tree) != std::ssize(text)) replace_file(tree, text);
  }

  void put(std::span<const HubFile* const> files, const std::optional<fs::path>& partial,
           Reporter&) override {
    const fs::path content = blob(*files[0]);
    if (partial && rename(partial->c_str(), content.c_str()) != 0)
      fail_errno("cannot rename the finished file to", content.string());
    for (size_t i = 0; i < files.size(); i++) {
      const fs::path named = snapshot_ / files[i]->path;
      make_parents(named, snapshot_);
      if (symlinks_ && replace_link(link_text(*files[i]), named)) continue;
      // Nothing is kept twice: the last name gets the content itself.
      if (partial && i + 1 == files.size()) {
        if (rename(content.c_str(), named.c_str()) != 0) fail_errno("cannot rename to", named.string());
      } else {
        copy_whole(content, named);
      }
    }
  }
  void keep(const HubFile&) override {}

  void end() override {
    const std::string& revision = repository_.name.revision;
    if (revision == repository_.commit) return;
    const fs::path ref = folder_ / "refs" / revision;
    make_parents(ref, folder_ / "refs");
    if (regular_size(ref) == std::ssize(repository_.commit) &&
        read_file(ref, kMaxRefBytes) == repository_.commit)
      return;
    replace_file(ref, repository_.commit);
  }

 private:
  fs::path blob(const HubFile& file) const { return folder_ / "blobs" / file.etag(); }
  // From the file's folder in the snapshot to its blob.
  std::string link_text(const HubFile& file) const {
    std::string up = "../../";
    for (const char c : file.path)
      if (c == '/') up += "../";
    return up + "blobs/" + file.etag();
  }
  fs::path locks() const { return cache_ / ".locks" / folder_.filename(); }

  const HubRepository& repository_;
  fs::path cache_, folder_, snapshot_;
  bool symlinks_;
};

}  // namespace

fs::path repository_folder(const fs::path& cache, const HubName& name) {
  return cache / cache_folder_name(name);
}

fs::path snapshot_folder(const fs::path& cache, const HubName& name, const std::string& commit) {
  return repository_folder(cache, name) / "snapshots" / commit;
}

std::optional<std::string> cached_commit(const fs::path& cache, const HubName& name) {
  if (is_commit(name.revision)) return name.revision;
  const fs::path ref = repository_folder(cache, name) / "refs" / name.revision;
  if (!regular_size(ref)) return {};
  std::string commit = read_file(ref, kMaxRefBytes);
  commit.erase(commit.find_last_not_of(" \n\r\t") + 1);
  if (!is_commit(commit)) return {};
  return commit;
}

std::optional<HubRepository> cached_repository(const fs::path& cache, const HubName& name) {
  const std::optional<std::string> commit = cached_commit(cache, name);
  if (!commit) return {};
  const fs::path tree = tree_file(repository_folder(cache, name), *commit);
  if (!regular_size(tree)) return {};
  try {
    return HubRepository{.name = name, .commit = *commit, .files = read_tree(tree)};
  } catch (const Error&) {  // of a later version, or damaged: as if it were not there
    return {};
  }
}

std::optional<HubRepository> cached_snapshot(const fs::path& cache, const HubName& name) {
  const std::optional<std::string> commit = cached_commit(cache, name);
  if (!commit) return {};
  HubRepository repository = {.name = name, .commit = *commit};
  const fs::path folder = snapshot_folder(cache, name, *commit);
  std::error_code error;
  for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    if (at->is_regular_file())
      repository.files.push_back({.path = at->path().lexically_relative(folder).string(),
                                  .size = static_cast<int64_t>(at->file_size()),
                                  .blob_id = ""});
  if (repository.files.empty()) return {};
  std::ranges::sort(repository.files, {}, &HubFile::path);
  return repository;
}

std::unique_ptr<DownloadPlace> cache_place(const HubRepository& repository, const fs::path& cache,
                                           bool symlinks) {
  return std::make_unique<CachePlace>(repository, cache, symlinks);
}

std::string tree_text(const HubRepository& repository) {
  std::vector<const HubFile*> sorted;
  for (const HubFile& file : repository.files) sorted.push_back(&file);
  std::ranges::sort(sorted, {}, [](const HubFile* file) -> const std::string& { return file->path; });
  Json files = Json::object();
  auto& rows = files.get_ref<Json::object_t&>();
  for (const HubFile* file : sorted) {
    Json row = {{"size", file->size}, {"blob_id", file->blob_id}};
    if (file->sha256) {
      row["lfs_sha256"] = *file->sha256;
      row["lfs_size"] = file->size;
    }
    if (!file->xet_hash.empty()) row["xet_hash"] = file->xet_hash;
    rows.emplace_back(file->path, std::move(row));  // at the end: a search among all names costs too much
  }
  return Json{{"format_version", kTreeFormat}, {"files", std::move(files)}}.dump(1, ' ', true);
}

void tag_cache_folder(const fs::path& folder) {
  const fs::path tag = folder / "CACHEDIR.TAG";
  try {
    if (!fs::exists(tag))
      write_file(tag,
                 "Signature: 8a477f597d28d172789f06886806bc55\n"
                 "# This file is a cache directory tag created by huggingface_hub.\n"
                 "# For information about cache directory tags, see:\n"
                 "#\thttps://bford.info/cachedir/\n");
  } catch (const std::exception&) {
    return;
  }
}

void replace_file(const fs::path& path, const std::string& text) {
  const fs::path fresh = unused_name(path);
  write_file(fresh, text);
  if (rename(fresh.c_str(), path.c_str()) != 0) fail_errno("cannot write", path.string());
}

void make_parents(const fs::path& path, const fs::path& root) {
  const fs::path parent = path.parent_path();
  if (!is_within(parent, root))
    fail(ErrorKind::input, "{}: a link in this path leads out of {}, where nothing is written", path.string(),
         root.string());
  std::error_code error;
  fs::create_directories(parent, error);
  if (error) fail(ErrorKind::io, "cannot make the folder {}: {}", parent.string(), error.message());
}

void copy_whole(const fs::path& from, const fs::path& to) {
  const fs::path fresh = unused_name(to);
  try {
    const File source = File::open_read(from);
    File target = File::create(fresh);
    copy_range(source, 0, target, 0, source.size());
  } catch (...) {
    unlink(fresh.c_str());
    throw;
  }
  if (rename(fresh.c_str(), to.c_str()) != 0) fail_errno("cannot rename the finished file to", to.string());
}

std::optional<int64_t> regular_size(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return {};
  const auto size = fs::file_size(path, error);
  if (error) return {};
  return static_cast<int64_t>(size);
}

}  // namespace moerge
