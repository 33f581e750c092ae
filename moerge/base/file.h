#pragma once
// Files and folders: reading, memory mapping, kernel copies, and output that appears whole or not at all.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace moerge {

/// Reads a regular file of at most `max_bytes`. Throws io when it cannot, input when it is larger or no
/// regular file.
std::string read_file(const std::filesystem::path& file, int64_t max_bytes);

/// Creates or replaces a file.
void write_file(const std::filesystem::path& file, std::string_view bytes);

/// An open file descriptor; closed by the destructor. Reads and writes are positional, so threads may share
/// it.
class File {
 public:
  static File open_read(const std::filesystem::path& path);
  static File create(const std::filesystem::path& path);
  /// For reading and writing; what is there stays, and what is not is made.
  static File open_update(const std::filesystem::path& path);
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

 private:
  File(int fd, std::filesystem::path path) : fd_(fd), path_(std::move(path)) {}
  int fd_;
  std::filesystem::path path_;
};

/// Memory that copy_range() takes where the kernel refuses.
inline constexpr int64_t kCopyBuffer = 1 << 20;

/// Copies bytes between files inside the kernel (copy_file_range: shares blocks where the file system can),
/// by read and write where the kernel refuses. Checks for an interrupt every 64 MB.
void copy_range(const File& source, int64_t source_offset, File& target, int64_t target_offset,
                int64_t count);

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
};

/// An output folder built beside its target, in ".NAME.moerge-partial", and renamed at the end. Until
/// commit() the target is untouched; without commit() the destructor removes the partial folder. What a
/// killed run left behind is removed by the next run for the same target. Two runs for one target exclude
/// each other by a lock on the folder.
class OutputFolder {
 public:
  /// Throws usage when the target exists and is not empty, unless `overwrite`; a folder that holds no model
  /// (no config.json) is never overwritten.
  OutputFolder(const std::filesystem::path& target, bool overwrite);
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  ~OutputFolder();

  const std::filesystem::path& path() const { return partial_; }
  void commit();

 private:
  std::filesystem::path target_, partial_;
  int lock_ = -1;
  bool overwrite_;
  bool committed_ = false;
};

/// The refusals of OutputFolder's constructor, without touching anything.
void check_output_folder(const std::filesystem::path& target, bool overwrite);

/// Bytes that an unprivileged user can still write where `path` (or its nearest existing parent) lies.
int64_t free_space(const std::filesystem::path& path);

/// True when `path` is `folder` or lies in it, symbolic links resolved.
bool is_within(const std::filesystem::path& path, const std::filesystem::path& folder);

/// "6.5 GB", "812 kB": powers of 1000, as disks are sold.
std::string human_bytes(int64_t bytes);
/// "24.2B", "1.0M": the same for parameters.
std::string human_count(int64_t count);

}  // namespace moerge
