#pragma once
// The lock files of huggingface_hub: flock() on an empty file that stays.

#include <filesystem>
#include <functional>

namespace moerge {

/// Holds the lock until it is destroyed. Where the file system knows no locks, it holds nothing.
class LockFile {
 public:
  /// Waits while another process or thread has it; `waiting` is called all the time and may throw. Throws io
  /// when the file cannot be made.
  LockFile(const std::filesystem::path& path, const std::function<void()>& waiting);
  LockFile(const LockFile&) = delete;
  LockFile& operator=(const LockFile&) = delete;
  ~LockFile();

 private:
  int fd_ = -1;
};

}  // namespace moerge
