#pragma once
// Where downloaded files end up: in the cache, or in a folder of their own.

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "moerge/base/progress.h"
#include "moerge/hub/hub.h"

namespace moerge {

/// Of one repository at one commit. Files with the same content have the same etag and are brought once.
class DownloadPlace {
 public:
  virtual ~DownloadPlace() = default;

  /// That the files appear in, under their names.
  virtual std::filesystem::path folder() const = 0;
  /// Is it there, whole? `check` is called while that takes long and may throw.
  virtual bool has(const HubFile& file, const std::function<void()>& check) const = 0;
  /// Is its content there, though perhaps not yet under its name?
  virtual bool has_bytes(const HubFile& file) const = 0;
  /// Where the bytes are gathered, and the lock for that; their folder exists after begin().
  virtual std::filesystem::path partial(const HubFile& file) const = 0;
  virtual std::filesystem::path lock(const HubFile& file) const = 0;

  /// Before the first file.
  virtual void begin() = 0;
  /// Gives files of one content their names. `partial`: the file that has it, which is used up; nothing:
  /// has_bytes().
  virtual void put(std::span<const HubFile* const> files, const std::optional<std::filesystem::path>& partial,
                   Reporter& reporter) = 0;
  /// Of a file that is there already.
  virtual void keep(const HubFile& file) = 0;
  /// After the last file.
  virtual void end() = 0;
};

/// `symlinks`: false where a snapshot is to hold the files themselves.
std::unique_ptr<DownloadPlace> cache_place(const HubRepository& repository,
                                           const std::filesystem::path& cache, bool symlinks);
std::unique_ptr<DownloadPlace> folder_place(const HubRepository& repository,
                                            const std::filesystem::path& folder);

/// What both have in common.
/// The text by which huggingface_hub keeps its list of a commit's files, and reads it again.
std::string tree_text(const HubRepository& repository);
/// Puts CACHEDIR.TAG into a folder that has none; where that fails, it has none.
void tag_cache_folder(const std::filesystem::path& folder);
/// A small file, whole or not at all.
void replace_file(const std::filesystem::path& path, const std::string& text);
/// Makes the folders above `path`. Throws input when a link among them leads out of `root`.
void make_parents(const std::filesystem::path& path, const std::filesystem::path& root);
/// A copy under its final name, whole or not at all.
void copy_whole(const std::filesystem::path& from, const std::filesystem::path& to);
/// Size of a regular file, links followed; nothing where there is none.
std::optional<int64_t> regular_size(const std::filesystem::path& path);

}  // namespace moerge
