#pragma once
// A folder for files that something else wants to read from a disk.

#include <filesystem>
#include <string_view>

namespace moerge {

/// Made in TMPDIR, removed with all that is in it at the end.
class TemporaryFolder {
 public:
  /// `purpose` is part of its name. Throws io.
  explicit TemporaryFolder(std::string_view purpose);
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace moerge
