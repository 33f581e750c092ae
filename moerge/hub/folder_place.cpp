// Files under their names in a folder of the user's, with what huggingface_hub notes about them in
// .cache/huggingface.

#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <sstream>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/hub/download_place.h"
#include "moerge/hub/file_transfer.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxNoteBytes = 1000;
constexpr double kClockSlack = 1;  // seconds: file systems count time in steps

double changed_at(const fs::path& path) {
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) return INFINITY;
  return static_cast<double>(info.st_mtim.tv_sec) + 1e-9 * static_cast<double>(info.st_mtim.tv_nsec);
}

// Commit, etag and time of a download, one a line.
struct Note {
  std::string commit, etag;
  double time = 0;
};

class FolderPlace : public DownloadPlace {
 public:
  FolderPlace(const HubRepository& repository, fs::path folder)
      : repository_(repository), folder_(std::move(folder)), notes_(folder_ / ".cache" / "huggingface") {}

  fs::path folder() const override { return folder_; }

  bool has(const HubFile& file, const std::function<void()>& check) const override {
    const fs::path named = folder_ / file.path;
    if (regular_size(named) != file.size) return false;
    if (const std::optional<Note> note = valid_note(file)) return note->etag == file.etag();
    return has_content(named, file, check);
  }
  bool has_bytes(const HubFile&) const override { return false; }
  fs::path partial(const HubFile& file) const override {
    return notes_ / "download" / (file.etag() + ".incomplete");
  }
  fs::path lock(const HubFile& file) const override { return notes_ / "download" / (file.etag() + ".lock"); }

  void begin() override {
    make_parents(notes_ / "download" / "x", folder_);
    make_parents(notes_ / "trees" / "x", folder_);
    if (!fs::exists(notes_ / ".gitignore")) replace_file(notes_ / ".gitignore", "*");
    tag_cache_folder(notes_);
    replace_file(notes_ / "trees" / (repository_.commit + ".json"), tree_text(repository_));
  }

  void put(std::span<const HubFile* const> files, const std::optional<fs::path>& partial,
           Reporter& reporter) override {
    for (size_t i = 0; i < files.size(); i++) {
      const fs::path named = folder_ / files[i]->path;
      make_parents(named, folder_);
      if (fs::is_regular_file(fs::symlink_status(named)) && !valid_note(*files[i]))
        reporter.warning(fmt::format("{} was something else: it is replaced by what \"{}\" has",
                                     named.string(), repository_.name.repository));
      if (i + 1 < files.size())
        copy_whole(*partial, named);
      else if (rename(partial->c_str(), named.c_str()) != 0)
        fail_errno("cannot rename the finished file to", named.string());
      write_note(*files[i]);
    }
  }
  void keep(const HubFile& file) override {
    if (const std::optional<Note> note = valid_note(file); note && note->commit == repository_.commit) return;
    write_note(file);
  }
  void end() override {}

 private:
  fs::path note_file(const HubFile& file) const { return notes_ / "download" / (file.path + ".metadata"); }

  // What was noted of a file that has not been changed since.
  std::optional<Note> valid_note(const HubFile& file) const {
    const fs::path path = note_file(file);
    if (const auto size = regular_size(path); !size || *size > kMaxNoteBytes) return {};
    std::istringstream lines(read_file(path, kMaxNoteBytes));
    Note note;
    std::string time;
    if (!std::getline(lines, note.commit) || !std::getline(lines, note.etag) || !std::getline(lines, time))
      return {};
    note.time = std::strtod(time.c_str(), nullptr);
    if (!(changed_at(folder_ / file.path) <= note.time + kClockSlack)) return {};
    return note;
  }

  void write_note(const HubFile& file) const {
    const fs::path path = note_file(file);
    make_parents(path, folder_);
    const double now =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    replace_file(path, fmt::format("{}\n{}\n{:.6f}\n", repository_.commit, file.etag(), now));
  }

  const HubRepository& repository_;
  fs::path folder_, notes_;
};

}  // namespace

std::unique_ptr<DownloadPlace> folder_place(const HubRepository& repository, const fs::path& folder) {
  return std::make_unique<FolderPlace>(repository, folder);
}

}  // namespace moerge
