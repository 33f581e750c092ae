#pragma once
// The directory of a zip archive (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, zip64
// included). Nothing is unpacked: an entry is a place in the file.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace moerge {

struct ZipEntry {
  std::string name;
  int64_t offset;   // of its first byte, from the start of the file
  int64_t size;     // in the file
  int compression;  // 0: its bytes are stored as they are
};

/// Whether the file begins like a zip archive with something in it.
bool is_zip(std::span<const std::byte> file);

/// The entries by offset. Names are there once, entries lie inside the file and on their own, and each local
/// header says what the directory says. `where` starts every message. Throws input for what is damaged,
/// unsupported for entries that are encrypted and for archives on several disks.
std::vector<ZipEntry> read_zip_directory(std::span<const std::byte> file, const std::string& where);

}  // namespace moerge
