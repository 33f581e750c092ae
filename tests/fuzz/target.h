#pragma once
// What the targets share. Each defines LLVMFuzzerTestOneInput(), hands one input to a reader and touches what
// the reader says is there. An Error is an answer; everything else that ends the call is a finding.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/testing/temp_dir.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace moerge::fuzz {

/// The reader took the last input; for the replay, whose seeds say what is expected of it.
inline bool accepted = false;

inline std::span<const std::byte> bytes_of(const uint8_t* data, size_t size) {
  return std::as_bytes(std::span(data, size));
}

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

template <typename Read>
int run(Read read) {
  accepted = false;
  try {
    read();
    accepted = true;
  } catch (const Error& error) {
    if (error.message().empty()) std::abort();
  }
  return 0;
}

/// Ends the process when a reader breaks its word.
inline void require(bool kept) {
  if (!kept) std::abort();
}

/// Reads every byte, which the address sanitizer watches.
inline void touch(std::span<const std::byte> bytes) {
  std::byte sum{};
  for (const std::byte byte : bytes) sum ^= byte;
  static volatile std::byte sink;
  sink = sum;
  (void)sink;
}

/// [offset, offset + size) of `file`, which must lie inside.
inline void touch(std::span<const std::byte> file, int64_t offset, int64_t size) {
  require(offset >= 0 && size >= 0 && offset <= std::ssize(file) && size <= std::ssize(file) - offset);
  touch(file.subspan(static_cast<size_t>(offset), static_cast<size_t>(size)));
}

/// An input of several files has this line between them.
inline std::vector<std::string_view> split_files(std::string_view input) {
  constexpr std::string_view kLine = "\n-- next file --\n";
  std::vector<std::string_view> files;
  for (size_t at = 0;;) {
    const size_t end = input.find(kLine, at);
    files.push_back(input.substr(at, end == std::string_view::npos ? end : end - at));
    if (end == std::string_view::npos) return files;
    at = end + kLine.size();
  }
}

/// Of the process, for readers of folders.
inline const testing::TempDir& folder() {
  static const testing::TempDir dir;
  return dir;
}

/// A file in it. (To cut off the old one would make ext4 wait for the disk.)
inline std::filesystem::path write(const std::filesystem::path& name, std::string_view bytes) {
  std::filesystem::remove(folder() / name);
  return folder().write(name, bytes);
}

}  // namespace moerge::fuzz
