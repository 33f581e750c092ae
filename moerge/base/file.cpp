#include "moerge/base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <thread>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/base/parallel.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kCopyStep = 64 << 20;

struct stat stat_of(int fd, const fs::path& path) {
  struct stat info = {};
  if (fstat(fd, &info) != 0) fail_errno("cannot look at", path.string());
  return info;
}

// Where the kernel cannot copy between these two files (other file system, old kernel).
void copy_by_hand(const File& source, int64_t from, File& target, int64_t to, int64_t count) {
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(count, kCopyBuffer)));
  while (count > 0) {
    const std::span part(buffer.data(), static_cast<size_t>(std::min<int64_t>(count, std::ssize(buffer))));
    source.read_at(from, part);
    target.write_at(to, part);
    from += std::ssize(part), to += std::ssize(part), count -= std::ssize(part);
    check_interrupted();
  }
}

}  // namespace

std::string read_file(const fs::path& path, int64_t max_bytes) {
  const File file = File::open_read(path);
  const int64_t size = file.size();
  if (size > max_bytes)
    fail(ErrorKind::input, "{}: {} is too large, at most {} expected here", path.string(), human_bytes(size),
         human_bytes(max_bytes));
  std::string text(static_cast<size_t>(size), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void write_file(const fs::path& path, std::string_view bytes) {
  File::create(path).write_at(0, std::as_bytes(std::span(bytes)));
}

File File::open_read(const fs::path& path) {
  // O_NONBLOCK: opening a named pipe must not hang; it is refused below.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail_errno("cannot open", path.string());
  File file(fd, path);
  if (!S_ISREG(stat_of(fd, path).st_mode)) fail(ErrorKind::input, "{} is not a regular file", path.string());
  return file;
}

File File::create(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) fail_errno("cannot create", path.string());
  return File(fd, path);
}

File File::create_locked(const fs::path& path) {
  std::optional<File> file = try_create_locked(path);
  if (!file) fail(ErrorKind::io, "another moerge is writing {} at this moment", path.string());
  return std::move(*file);
}

std::optional<File> File::try_create_locked(const fs::path& path) {
  for (;;) {
    File file(open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666), path);
    if (file.fd_ < 0) fail_errno("cannot create", path.string());
    if (flock(file.fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return std::nullopt;
      if (errno == EINTR) continue;  // else the file system has no locks
    }
    // The other run may have renamed or removed the file between our open and our lock.
    struct stat named = {};
    if (stat(path.c_str(), &named) == 0 && stat_of(file.fd_, path).st_ino == named.st_ino) {
      file.resize(0);
      return file;
    }
  }
}

File File::open_update(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) fail_errno("cannot open", path.string());
  return File(fd, path);
}

File File::wait_to_create_locked(const fs::path& path, const std::function<void()>& on_wait) {
  for (bool told = false;; told = true) {
    if (std::optional<File> lock = try_create_locked(path)) return std::move(*lock);
    if (!told) on_wait();
    check_interrupted();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

File::File(File&& other) noexcept : fd_(other.fd_), path_(std::move(other.path_)) { other.fd_ = -1; }

File::~File() {
  if (fd_ >= 0) close(fd_);
}

int64_t File::size() const { return stat_of(fd_, path_).st_size; }

void File::resize(int64_t bytes) {
  if (ftruncate(fd_, bytes) != 0) fail_errno("cannot set the size of", path_.string());
}

void File::write_at(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd_, bytes.data(), bytes.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("cannot write", path_.string());
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += n;
  }
}

void File::read_at(int64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t n = pread(fd_, bytes.data(), bytes.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("cannot read", path_.string());
    if (n == 0) fail(ErrorKind::io, "{} became shorter while it was read", path_.string());
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += n;
  }
}

void copy_range(const File& source, int64_t from, File& target, int64_t to, int64_t count) {
  while (count > 0) {
    check_interrupted();
    off_t in = from, out = to;
    const ssize_t n = copy_file_range(source.fd(), &in, target.fd(), &out,
                                      static_cast<size_t>(std::min(count, kCopyStep)), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EXDEV || errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP))
      return copy_by_hand(source, from, target, to, count);
    if (n < 0) fail_errno("cannot write", target.path().string());
    if (n == 0) fail(ErrorKind::io, "{} became shorter while it was copied", source.path().string());
    from += n, to += n, count -= n;
  }
}

MappedFile::MappedFile(const fs::path& path) : file_(File::open_read(path)) {
  size_ = static_cast<size_t>(file_.size());
  if (size_ == 0) return;
  void* data = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_.fd(), 0);
  if (data == MAP_FAILED) fail_errno("cannot map", path.string());
  data_ = static_cast<const std::byte*>(data);
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<std::byte*>(data_), size_);
}

namespace {

// Advice only: where it fails, nothing changes.
void advise(std::span<const std::byte> part, int advice) {
  if (part.empty()) return;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(part.data()) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(part.data() + part.size());
  madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

}  // namespace

void MappedFile::release(std::span<const std::byte> part) const { advise(part, MADV_DONTNEED); }

void MappedFile::prefetch(std::span<const std::byte> part) const { advise(part, MADV_WILLNEED); }

namespace {

fs::path clean_target(const fs::path& target) {
  fs::path path = fs::weakly_canonical(fs::absolute(target));
  if (!path.has_filename()) path = path.parent_path();
  if (!path.has_filename()) fail(ErrorKind::usage, "{} cannot be an output folder", target.string());
  return path;
}

// The folder that will hold the output must be there or be creatable.
void check_parent(const fs::path& target) {
  fs::path parent = target.parent_path();
  while (!fs::exists(parent) && parent.has_relative_path()) parent = parent.parent_path();
  if (!fs::is_directory(parent))
    fail(ErrorKind::io, "cannot create {}: {} is not a folder", target.string(), parent.string());
  if (access(parent.c_str(), W_OK | X_OK) != 0) fail_errno("cannot write into", parent.string());
}

bool is_mount_point(const fs::path& folder) {
  struct stat inside = {}, outside = {};
  return stat(folder.c_str(), &inside) == 0 && stat(folder.parent_path().c_str(), &outside) == 0 &&
         inside.st_dev != outside.st_dev;
}

}  // namespace

void check_output_folder(const fs::path& target, bool overwrite) {
  if (target.empty()) fail(ErrorKind::usage, "OUT is empty: name a folder to write to");
  if (fs::is_symlink(fs::symlink_status(target)) && !fs::exists(target))
    fail(ErrorKind::usage, "{} is a symbolic link to nothing", target.string());
  const fs::path path = clean_target(target);
  check_parent(path);
  if (!fs::exists(path)) return;
  if (is_mount_point(path))
    fail(ErrorKind::usage,
         "{} is a mount point, which cannot be replaced by a finished folder: choose a folder inside it",
         target.string());
  if (!fs::is_directory(path)) fail(ErrorKind::usage, "{} exists and is not a folder", target.string());
  if (fs::is_empty(path)) return;
  if (!overwrite)
    fail(ErrorKind::usage,
         "{} exists and is not empty: choose another folder, or replace it with --overwrite",
         target.string());
  if (!fs::exists(path / "config.json"))
    fail(ErrorKind::usage,
         "{} holds no model (no config.json), so --overwrite does not replace it: choose another folder",
         target.string());
}

OutputFolder::OutputFolder(const fs::path& target, bool overwrite) : overwrite_(overwrite) {
  check_output_folder(target, overwrite);
  target_ = clean_target(target);
  partial_ = target_.parent_path() / ("." + target_.filename().string() + ".moerge-partial");
  std::error_code error;
  fs::create_directories(target_.parent_path(), error);
  if (error) fail(ErrorKind::io, "cannot create {}: {}", target_.parent_path().string(), error.message());
  for (;;) {
    if (mkdir(partial_.c_str(), 0777) != 0 && errno != EEXIST) fail_errno("cannot create", partial_.string());
    lock_ = open(partial_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (lock_ < 0) fail_errno("cannot open", partial_.string());
    if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
      close(lock_);
      fail(ErrorKind::io, "another moerge is writing {} at this moment", target_.string());
    }
    // The other run may have renamed the folder between our open and our lock: then we hold its finished
    // output.
    struct stat held = {}, named = {};
    if (fstat(lock_, &held) == 0 && stat(partial_.c_str(), &named) == 0 && held.st_ino == named.st_ino) break;
    close(lock_);
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(partial_)) fs::remove_all(entry.path());
}

OutputFolder::~OutputFolder() {
  if (!committed_) {
    std::error_code ignored;
    fs::remove_all(partial_, ignored);
  }
  if (lock_ >= 0) close(lock_);
}

namespace {

// For file systems that cannot exchange two names: the old output stands aside for the moment between two
// renames.
void replace_by_two_renames(const fs::path& finished, const fs::path& target, const fs::path& aside) {
  if (rename(target.c_str(), aside.c_str()) != 0) fail_errno("cannot move aside", target.string());
  if (rename(finished.c_str(), target.c_str()) == 0) return;
  const int code = errno;
  if (rename(aside.c_str(), target.c_str()) != 0)
    fail_errno("the old output is now in " + aside.string() + "; cannot restore", target.string());
  errno = code;
  fail_errno("cannot rename the finished folder to", target.string());
}

}  // namespace

void OutputFolder::commit() {
  check_output_folder(target_, overwrite_);  // somebody may have filled it meanwhile
  const fs::path aside = partial_.string() + "-old";
  const bool replaces = fs::exists(target_) && !fs::is_empty(target_);
  fs::path old_output;
  if (!replaces) {
    if (rename(partial_.c_str(), target_.c_str()) != 0)
      fail_errno("cannot rename the finished folder to", target_.string());
  } else if (renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
    old_output = partial_;
  } else {
    replace_by_two_renames(partial_, target_, aside);
    old_output = aside;
  }
  committed_ = true;
  std::error_code ignored;  // the new output is in place; what cannot be removed is cleaned by the next run
  if (!old_output.empty()) fs::remove_all(old_output, ignored);
}

int64_t free_space(const fs::path& path) {
  fs::path place = fs::weakly_canonical(fs::absolute(path));
  while (!fs::exists(place) && place.has_relative_path()) place = place.parent_path();
  struct statvfs info = {};
  if (statvfs(place.c_str(), &info) != 0) fail_errno("cannot look at the free space of", place.string());
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

bool is_within(const fs::path& path, const fs::path& folder) {
  const fs::path inner = fs::weakly_canonical(path), outer = fs::weakly_canonical(folder);
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

std::string human_bytes(int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"bytes", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < kUnits.size()) value /= 1000, unit++;
  return fmt::format("{:.{}f} {}", value, unit > 0 && value < 99.5 ? 1 : 0, kUnits[unit]);
}

std::string human_count(int64_t count) {
  constexpr std::array<const char*, 5> kUnits = {"", "k", "M", "B", "T"};
  double value = static_cast<double>(count);
  size_t unit = 0;
  while (value >= 999.95 && unit + 1 < kUnits.size()) value /= 1000, unit++;
  return fmt::format("{:.{}f}{}", value, unit == 0 ? 0 : 1, kUnits[unit]);
}

}  // namespace moerge
