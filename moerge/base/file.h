#pragma once
// Files: reading, memory mapping, kernel copies, and what tells one state of a file from another.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "moerge/base/interrupt.h"

namespace moerge {

/// Reads a regular file of at most `max_bytes`. Throws io when it cannot, input when it is larger or no
/// regular file.
std::string read_file(const std::filesystem::path& file, int64_t max_bytes);

/// Creates or replaces a file.
void write_file(const std::filesystem::path& file, std::string_view bytes);

/// What tells one state of a file from another without reading it.
struct FileStamp {
  int64_t bytes = 0;
  int64_t changed = 0;  // time of the last change of its content, nanoseconds since 1970
  bool operator==(const FileStamp&) const = default;
};

/// An open file descriptor; closed by the destructor. Reads and writes are positional, so threads may share
/// it.
class File {
 public:
  static File open_read(const std::filesystem::path& path);
  static File create(const std::filesystem::path& path);
  /// For reading and writing; what is there stays, and what is not is made.
  static File open_update(const std::filesystem::path& path);
  /// The same; throws io for a symbolic link, which may lead anywhere.
  static File open_output(const std::filesystem::path& path);
  /// An empty file that no other create_locked() gets while this one is open. Throws io when another has it.
  static File create_locked(const std::filesystem::path& path);
  /// The same; nothing when another has it.
  static std::optional<File> try_create_locked(const std::filesystem::path& path);
  /// The same; waits while another has it, after it has called `on_wait` once. A signal ends the wait.
  static File wait_to_create_locked(const std::filesystem::path& path, const std::function<void()>& on_wait);
  File(File&& other) noexcept;
  File& operator=(File&&) = delete;
  ~File();

  int fd() const { return fd_; }
  const std::filesystem::path& path() const { return path_; }
  int64_t size() const;
  void resize(int64_t bytes);
  void write_at(int64_t offset, std::span<const std::byte> bytes);
  void read_at(int64_t offset, std::span<std::byte> bytes) const;

  FileStamp stamp() const;
  /// Another run's try_lock() fails while this one is open. True where the file system has no locks.
  bool try_lock();
  /// Returns when all that was written survives a power cut.
  void sync();
  /// Starts writing these bytes (`count` 0: all to the end) to the disk, so that sync() has less to wait for.
  /// Advice only.
  void start_writing(int64_t offset, int64_t count) const;
  /// These bytes leave the page cache, if they are on the disk. Advice only.
  void forget(int64_t offset, int64_t count) const;

 private:
  File(int fd, std::filesystem::path path) : fd_(fd), path_(std::move(path)) {}
  int fd_;
  std::filesystem::path path_;
};

/// Calls use() with `count` bytes of a file, from `offset` on, piece by piece: as many at a time as stay in
/// the processor's cache. A disk that refuses is an error (io), where mapped memory would end the process.
void read_pieces(const File& file, int64_t offset, int64_t count,
                 const std::function<void(std::span<const std::byte> piece)>& use);

/// Memory that copy_range() takes where the kernel refuses.
inline constexpr int64_t kCopyBuffer = 1 << 20;

/// Copies bytes between files inside the kernel, by read and write where it refuses. Where the file system
/// can share blocks and both offsets are equal modulo its block size, whole blocks are shared and only the
/// bytes before and after them are copied. A second signal ends it within 64 MB.
void copy_range(const File& source, int64_t source_offset, File& target, int64_t target_offset,
                int64_t count);

/// The block size of the file system that holds `path` (or its nearest existing parent).
int64_t block_bytes(const std::filesystem::path& path);

/// Returns when the names in a folder survive a power cut. Where a file system does not know this, nothing
/// happens.
void sync_folder(const std::filesystem::path& folder);

/// Memory of this machine in bytes, what runs on it included.
int64_t physical_memory();

/// A whole file mapped for reading. The mapping is never written to; safe to share between threads.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const File& file() const { return file_; }
  /// Tells the kernel that these bytes are not needed again soon: they leave this process's resident memory.
  void release(std::span<const std::byte> part) const;
  /// Asks the kernel to read these bytes ahead of their use.
  void prefetch(std::span<const std::byte> part) const;

 private:
  File file_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::optional<NamedMapping> named_;
};

/// True when files in `folder` (or its nearest existing parent) can share blocks with this one. Found out by
/// sharing one block with a file without a name, which is gone afterwards.
bool can_share_blocks(const File& source, const std::filesystem::path& folder);

/// What files that are written can have in common with those they are made of.
struct BlockSharing {
  int64_t block = 0;                                     // bytes of a block; 0: nothing
  std::function<bool(const MappedFile&)> possible = {};  // with this file

  /// Where something has to begin, modulo a block, so that what lies at `at` in it shares blocks with what
  /// lies at `offset` of its source.
  int64_t start_for(int64_t offset, int64_t at) const { return ((offset - at) % block + block) % block; }
  /// Bytes in whole blocks of a stretch of a source.
  int64_t whole_blocks(int64_t offset, int64_t bytes) const {
    const int64_t first = (offset + block - 1) / block, last = (offset + bytes) / block;
    return std::max<int64_t>(0, last - first) * block;
  }
};
/// For files in `folder`; every source is asked once.
BlockSharing sharing_with(const std::filesystem::path& folder);

/// Bytes that an unprivileged user can still write where `path` (or its nearest existing parent) lies.
int64_t free_space(const std::filesystem::path& path);

/// True when `path` is `folder` or lies in it, symbolic links resolved.
bool is_within(const std::filesystem::path& path, const std::filesystem::path& folder);

/// "6.5 GB", "812 kB": powers of 1000, as disks are sold.
std::string human_bytes(int64_t bytes);
/// "24.2B", "1.0M": the same for parameters.
std::string human_count(int64_t count);

}  // namespace moerge
