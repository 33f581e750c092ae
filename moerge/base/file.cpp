#include "moerge/base/file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "moerge/base/error.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kCopyStep = 64 << 20;

struct stat stat_of(int fd, const fs::path& path) {
  struct stat info = {};
  if (fstat(fd, &info) != 0) fail_errno("cannot look at", path.string());
  return info;
}

// A signal may end an open() on a network's file system.
int open_file(const char* path, int flags, mode_t mode = 0) {
  for (;;) {
    const int fd = open(path, flags, mode);
    if (fd >= 0 || errno != EINTR) return fd;
  }
}

// Where the kernel cannot copy between these two files (other file system, old kernel).
void copy_by_hand(const File& source, int64_t from, File& target, int64_t to, int64_t count) {
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(count, kCopyBuffer)));
  while (count > 0) {
    const std::span part(buffer.data(), static_cast<size_t>(std::min<int64_t>(count, std::ssize(buffer))));
    source.read_at(from, part);
    target.write_at(to, part);
    from += std::ssize(part), to += std::ssize(part), count -= std::ssize(part);
    check_aborted();
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

void read_pieces(const File& file, int64_t offset, int64_t count,
                 const std::function<void(std::span<const std::byte>)>& use) {
  constexpr int64_t kPiece = 256 << 10;
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(count, kPiece)));
  for (int64_t done = 0; done < count; done += kPiece) {
    const auto piece = std::span(buffer).first(static_cast<size_t>(std::min(kPiece, count - done)));
    file.read_at(offset + done, piece);
    use(piece);
  }
}

void write_file(const fs::path& path, std::string_view bytes) {
  File::create(path).write_at(0, std::as_bytes(std::span(bytes)));
}

File File::open_read(const fs::path& path) {
  // O_NONBLOCK: opening a named pipe must not hang; it is refused below.
  const int fd = open_file(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail_errno("cannot open", path.string());
  File file(fd, path);
  if (!S_ISREG(stat_of(fd, path).st_mode)) fail(ErrorKind::input, "{} is not a regular file", path.string());
  return file;
}

File File::create(const fs::path& path) {
  const int fd = open_file(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
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
    File file(open_file(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666), path);
    if (file.fd_ < 0) fail_errno("cannot create", path.string());
    if (!file.try_lock()) return std::nullopt;
    // The other run may have renamed or removed the file between our open and our lock.
    struct stat named = {};
    if (stat(path.c_str(), &named) == 0 && stat_of(file.fd_, path).st_ino == named.st_ino) {
      if (file.size() > 0) file.resize(0);
      return file;
    }
  }
}

File File::open_update(const fs::path& path) {
  const int fd = open_file(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) fail_errno("cannot open", path.string());
  return File(fd, path);
}

File File::open_output(const fs::path& path) {
  const int fd = open_file(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0666);
  if (fd < 0) fail_errno("cannot create", path.string());
  File file(fd, path);
  if (!S_ISREG(stat_of(fd, path).st_mode)) fail(ErrorKind::io, "{} is not a regular file", path.string());
  return file;
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
  while (ftruncate(fd_, bytes) != 0)
    if (errno != EINTR) fail_errno("cannot set the size of", path_.string());
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

FileStamp File::stamp() const {
  const struct stat info = stat_of(fd_, path_);
  return {.bytes = info.st_size, .changed = info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec};
}

bool File::try_lock() {
  for (;;) {
    if (flock(fd_, LOCK_EX | LOCK_NB) == 0) return true;
    if (errno == EWOULDBLOCK) return false;
    if (errno != EINTR) return true;
  }
}

void File::sync() {
  while (fdatasync(fd_) != 0)
    if (errno != EINTR) fail_errno("cannot write to the disk", path_.string());
}

void File::start_writing(int64_t offset, int64_t count) const {
  sync_file_range(fd_, offset, count, SYNC_FILE_RANGE_WRITE);
}

void File::forget(int64_t offset, int64_t count) const {
  posix_fadvise(fd_, offset, count, POSIX_FADV_DONTNEED);
}

namespace {

void copy_in_kernel(const File& source, int64_t from, File& target, int64_t to, int64_t count) {
  while (count > 0) {
    check_aborted();
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

}  // namespace

void copy_range(const File& source, int64_t from, File& target, int64_t to, int64_t count) {
  // A copy that starts inside a block is a copy to its end, whatever follows: so the kernel gets the bytes up
  // to the next block on their own.
  struct statvfs info = {};
  const int64_t block =
      fstatvfs(target.fd(), &info) == 0 && info.f_frsize > 0 ? static_cast<int64_t>(info.f_frsize) : 1;
  const int64_t head = from % block == to % block ? std::min(count, (block - from % block) % block) : 0;
  copy_in_kernel(source, from, target, to, head);
  copy_in_kernel(source, from + head, target, to + head, count - head);
}

namespace {

// The folder itself or the first above it that exists.
fs::path existing_parent(const fs::path& path) {
  fs::path place = fs::weakly_canonical(fs::absolute(path));
  while (!fs::exists(place) && place.has_relative_path()) place = place.parent_path();
  return place;
}

}  // namespace

int64_t block_bytes(const fs::path& path) {
  struct statvfs info = {};
  if (statvfs(existing_parent(path).c_str(), &info) != 0)
    fail_errno("cannot look at the file system of", path.string());
  return std::max<int64_t>(1, static_cast<int64_t>(info.f_frsize));
}

bool can_share_blocks(const File& source, const fs::path& folder) {
  const int fd = open(existing_parent(folder).c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  struct statvfs info = {};
  bool shared = false;
  if (fstatvfs(fd, &info) == 0 && source.size() >= static_cast<int64_t>(info.f_frsize)) {
    file_clone_range range = {
        .src_fd = source.fd(), .src_offset = 0, .src_length = info.f_frsize, .dest_offset = 0};
    shared = ioctl(fd, FICLONERANGE, &range) == 0;
  }
  close(fd);
  return shared;
}

void sync_folder(const fs::path& folder) {
  const fs::path path = folder.empty() ? "." : folder;
  const int fd = open_file(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_errno("cannot open", path.string());
  int result = 0;
  do result = fsync(fd);
  while (result != 0 && errno == EINTR);
  const int code = errno;
  close(fd);
  errno = code;
  if (result != 0 && code != EINVAL && code != ENOSYS && code != EOPNOTSUPP)
    fail_errno("cannot write to the disk", path.string());
}

int64_t physical_memory() {
  return static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<int64_t>(sysconf(_SC_PAGESIZE));
}

MappedFile::MappedFile(const fs::path& path) : file_(File::open_read(path)) {
  size_ = static_cast<size_t>(file_.size());
  if (size_ == 0) return;
  void* data = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_.fd(), 0);
  if (data == MAP_FAILED) fail_errno("cannot map", path.string());
  data_ = static_cast<const std::byte*>(data);
  named_.emplace(data, size_, path.string());
}

MappedFile::~MappedFile() {
  named_.reset();
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

BlockSharing sharing_with(const fs::path& folder) {
  auto known = std::make_shared<std::map<const MappedFile*, bool>>();
  return {.block = block_bytes(folder), .possible = [known, folder](const MappedFile& file) {
            const auto [at, is_new] = known->try_emplace(&file);
            if (is_new) at->second = can_share_blocks(file.file(), folder);
            return at->second;
          }};
}

int64_t free_space(const fs::path& path) {
  const fs::path place = existing_parent(path);
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
