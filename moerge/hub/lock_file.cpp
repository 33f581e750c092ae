#include "moerge/hub/lock_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "moerge/base/error.h"

namespace moerge {
namespace {

constexpr std::chrono::milliseconds kPause(50);

// Somebody may have removed the file between our open and our lock.
bool is_still_named(int fd, const std::filesystem::path& path) {
  struct stat held = {}, named = {};
  return fstat(fd, &held) == 0 && stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
         held.st_dev == named.st_dev;
}

}  // namespace

LockFile::LockFile(const std::filesystem::path& path, const std::function<void()>& waiting) {
  for (;;) {
    fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0664);
    if (fd_ < 0) fail_errno("cannot make the lock file", path.string());
    try {
      while (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) return;
        waiting();
        std::this_thread::sleep_for(kPause);
      }
    } catch (...) {
      close(fd_);
      throw;
    }
    if (is_still_named(fd_, path)) return;
    close(fd_);
  }
}

LockFile::~LockFile() { close(fd_); }

}  // namespace moerge
