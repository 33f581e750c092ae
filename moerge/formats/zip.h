#pragma once
// The directory of a zip archive (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, zip64
// included). Nothing is unpacked: an entry is a place in the file.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moerge {

struct ZipEntry {
  std::string name;
  int64_t offset;   // of its first byte, from the start of the file
  int64_t size;     // in the file
  int compression;  // 0: its bytes are stored as they are
};

/// Bytes [begin, end) of a file.
struct ZipRange {
  int64_t begin, end;
};

/// What has to be read before the local headers: of a file whose last kZipTail bytes are there, where its
/// directory lies. Throws as read_zip_directory().
inline constexpr int64_t kZipTail = 66'000;
ZipRange find_zip_directory(std::span<const std::byte> file, const std::string& where);

/// Of a file whose directory is there as well: for each entry its local header, as long as that may be, and
/// the content too of those whose last part is one of `names`.
std::vector<ZipRange> list_zip_headers(std::span<const std::byte> file,
                                       std::span<const std::string_view> names, const std::string& where);

/// Whether the file begins like a zip archive with something in it.
bool is_zip(std::span<const std::byte> file);

/// The entries by offset. Names are there once, entries lie inside the file and on their own, and each local
/// header says what the directory says. `where` starts every message. Throws input for what is damaged,
/// unsupported for entries that are encrypted and for archives on several disks.
std::vector<ZipEntry> read_zip_directory(std::span<const std::byte> file, const std::string& where);

}  // namespace moerge
