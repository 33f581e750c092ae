#include "moerge/formats/zip.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string_view>

#include "moerge/base/error.h"

namespace moerge {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50,
                   kLocator64 = 0x07064b50;
constexpr size_t kLocalSize = 30, kCentralSize = 46, kEndSize = 22, kEnd64Size = 56, kLocatorSize = 20;
constexpr size_t kMaxComment = 65535;
constexpr size_t kMaxLocalExtra = 256;      // PyTorch pads to 64 bytes, zip64 adds 20
constexpr size_t kMaxDirectory = 32 << 20;  // some hundred thousand tensors
constexpr uint16_t kEncrypted = 1 << 0, kStrongEncryption = 1 << 6, kMaskedHeaders = 1 << 13;
constexpr uint16_t kZip64Extra = 1;
constexpr uint32_t kIn64 = UINT32_MAX;  // the value is in the zip64 record

// A name in a message: no longer than a line.
std::string_view shown(std::string_view name) { return name.substr(0, 100); }

// A part of the file that is known to be there.
class Record {
 public:
  explicit Record(std::span<const std::byte> bytes) : bytes_(bytes) {}
  uint16_t u16(size_t at) const { return number<uint16_t>(at); }
  uint32_t u32(size_t at) const { return number<uint32_t>(at); }
  uint64_t u64(size_t at) const { return number<uint64_t>(at); }

 private:
  template <typename T>
  T number(size_t at) const {
    T value;
    std::memcpy(&value, bytes_.subspan(at, sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::span<const std::byte> bytes_;
};

std::string_view text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class DirectoryReader {
 public:
  DirectoryReader(std::span<const std::byte> file, const std::string& where) : file_(file), where_(where) {}

  struct Found {
    std::string_view name;
    uint64_t header, size;
    uint16_t compression;
  };

  ZipRange directory() {
    find_directory();
    return {static_cast<int64_t>(directory_), static_cast<int64_t>(directory_end_)};
  }

  // By the place of their headers, which are not looked at.
  std::vector<Found> list() {
    find_directory();
    std::vector<Found> found;
    std::set<std::string_view> names;
    size_t at = directory_;
    for (uint64_t i = 0; i < entries_; i++) {
      found.push_back(read_entry(at));
      if (!names.insert(found.back().name).second)
        fail(ErrorKind::input, "{}: damaged: two entries named \"{}\"", where_, shown(found.back().name));
    }
    if (at != directory_end_) damaged("its directory has bytes after the last entry");
    std::ranges::sort(found, {}, &Found::header);
    return found;
  }

  std::vector<ZipEntry> read() {
    std::vector<ZipEntry> out;
    uint64_t end = 0;
    for (const Found& entry : list()) {
      if (entry.header < end)
        fail(ErrorKind::input, "{}: damaged: \"{}\" lies over the entry before it", where_,
             shown(entry.name));
      const uint64_t data = data_of(entry);
      end = data + entry.size;
      out.push_back({std::string(entry.name), static_cast<int64_t>(data), static_cast<int64_t>(entry.size),
                     entry.compression});
    }
    return out;
  }

 private:
  [[noreturn]] void damaged(std::string_view why) const {
    fail(ErrorKind::input, "{}: truncated or damaged: {}", where_, why);
  }

  // `size` bytes at `at`, which must lie before `end`.
  std::span<const std::byte> part(uint64_t at, uint64_t size, uint64_t end, std::string_view what) const {
    if (at > end || size > end - at)
      fail(ErrorKind::input,
           "{}: truncated or damaged: {} of {} bytes at byte {} does not end before byte {}", where_, what,
           size, at, end);
    return file_.subspan(static_cast<size_t>(at), static_cast<size_t>(size));
  }

  // The record at the file's end is the last place that looks like one and whose comment fills the rest.
  size_t find_end() const {
    const size_t farthest = file_.size() - std::min(file_.size(), kEndSize + kMaxComment);
    for (size_t at = file_.size() - std::min(file_.size(), kEndSize) + 1; at-- > farthest;) {
      if (file_.size() - at < kEndSize) break;
      const Record record(file_.subspan(at, kEndSize));
      if (record.u32(0) == kEnd && record.u16(20) == file_.size() - at - kEndSize) return at;
    }
    fail(ErrorKind::input,
         "{}: truncated: a zip archive without its end, the file has {} bytes (an unfinished download?)",
         where_, file_.size());
  }

  void find_directory() {
    const size_t end = find_end();
    const Record record(file_.subspan(end, kEndSize));
    uint64_t entries_here = record.u16(8), size = record.u32(12), offset = record.u32(16);
    uint64_t disk = record.u16(4), directory_disk = record.u16(6), limit = end;
    entries_ = record.u16(10);
    if (end >= kLocatorSize) {
      const Record locator(file_.subspan(end - kLocatorSize, kLocatorSize));
      if (locator.u32(0) == kLocator64) {
        limit = locator.u64(8);
        const Record wide(part(limit, kEnd64Size, end - kLocatorSize, "the zip64 end record"));
        if (wide.u32(0) != kEnd64) damaged("the zip64 end record is not where its locator says");
        disk = wide.u32(16), directory_disk = wide.u32(20);
        entries_here = wide.u64(24), entries_ = wide.u64(32), size = wide.u64(40), offset = wide.u64(48);
      }
    }
    if (disk != 0 || directory_disk != 0 || entries_here != entries_)
      fail(ErrorKind::unsupported, "{}: a part of a zip archive on several disks", where_);
    part(offset, size, limit, "a directory");
    if (offset + size != limit) damaged("its directory does not end where the end record begins");
    if (size > kMaxDirectory)
      fail(ErrorKind::input, "{}: damaged: a directory of {} bytes, at most {} are read", where_, size,
           kMaxDirectory);
    if (entries_ > size / kCentralSize)
      fail(ErrorKind::input, "{}: damaged: {} entries in a directory of {} bytes", where_, entries_, size);
    directory_ = static_cast<size_t>(offset);
    directory_end_ = static_cast<size_t>(limit);
  }

  // The entry at `at`, which moves on to the next.
  Found read_entry(size_t& at) const {
    const Record record(part(at, kCentralSize, directory_end_, "an entry of the directory"));
    if (record.u32(0) != kCentral) damaged("its directory does not consist of entries");
    const size_t name_size = record.u16(28), extra_size = record.u16(30), comment = record.u16(32);
    const auto rest =
        part(at + kCentralSize, name_size + extra_size + comment, directory_end_, "a name in the directory");
    at += kCentralSize + rest.size();
    Found entry{text(rest.first(name_size)), record.u32(42), record.u32(20), record.u16(10)};
    uint64_t unpacked = record.u32(24);
    read_zip64(rest.subspan(name_size, extra_size), {&unpacked, &entry.size, &entry.header});
    if ((record.u16(8) & (kEncrypted | kStrongEncryption | kMaskedHeaders)) != 0)
      fail(ErrorKind::unsupported, "{}: \"{}\" is encrypted", where_, shown(entry.name));
    if (entry.compression == 0 && entry.size != unpacked)
      fail(ErrorKind::input, "{}: damaged: \"{}\" is stored and has {} bytes, {} unpacked", where_,
           shown(entry.name), entry.size, unpacked);
    if (record.u16(34) != 0)
      fail(ErrorKind::unsupported, "{}: a part of a zip archive on several disks", where_);
    return entry;
  }

  // The values that did not fit 32 bits, in this order.
  void read_zip64(std::span<const std::byte> extra, std::initializer_list<uint64_t*> values) const {
    std::span<const std::byte> wide;
    while (extra.size() >= 4) {
      const Record head(extra.first(4));
      const size_t size = head.u16(2);
      if (size > extra.size() - 4) damaged("an extra field in its directory is longer than it can be");
      if (head.u16(0) == kZip64Extra) wide = extra.subspan(4, size);
      extra = extra.subspan(4 + size);
    }
    for (uint64_t* value : values) {
      if (*value != kIn64) continue;
      if (wide.size() < sizeof(uint64_t)) damaged("a zip64 size or place is missing in its directory");
      *value = Record(wide).u64(0);
      wide = wide.subspan(sizeof(uint64_t));
    }
  }

  // Where the entry's bytes begin. (Its local header may leave sizes out, not the name.)
  uint64_t data_of(const Found& entry) const {
    const Record record(part(entry.header, kLocalSize, directory_, "the header of an entry"));
    if (record.u32(0) != kLocal)
      fail(ErrorKind::input, "{}: damaged: \"{}\" is not at byte {}, where the directory says", where_,
           shown(entry.name), entry.header);
    const size_t name_size = record.u16(26), extra_size = record.u16(28);
    const uint64_t rest = entry.header + kLocalSize;
    if (record.u16(8) != entry.compression || text(part(rest, name_size, directory_, "a name")) != entry.name)
      fail(ErrorKind::input, "{}: damaged: the header of \"{}\" is another than the directory's", where_,
           shown(entry.name));
    const uint64_t data = rest + name_size + extra_size;
    part(data, entry.size, directory_, "an entry");
    return data;
  }

  std::span<const std::byte> file_;
  const std::string& where_;
  size_t directory_ = 0, directory_end_ = 0;
  uint64_t entries_ = 0;
};

}  // namespace

bool is_zip(std::span<const std::byte> file) {
  return file.size() >= 4 && Record(file.first(4)).u32(0) == kLocal;
}

ZipRange find_zip_directory(std::span<const std::byte> file, const std::string& where) {
  return DirectoryReader(file, where).directory();
}

std::vector<ZipRange> list_zip_headers(std::span<const std::byte> file,
                                       std::span<const std::string_view> names, const std::string& where) {
  DirectoryReader reader(file, where);
  const auto end = reader.directory().begin;
  std::vector<ZipRange> out;
  for (const DirectoryReader::Found& entry : reader.list()) {
    const auto begin = static_cast<int64_t>(std::min<uint64_t>(entry.header, static_cast<uint64_t>(end)));
    const std::string_view last = entry.name.substr(entry.name.rfind('/') + 1);
    const bool wanted = std::ranges::find(names, last) != names.end();
    const uint64_t size = kLocalSize + entry.name.size() + kMaxLocalExtra + (wanted ? entry.size : 0);
    out.push_back(
        {begin, begin + static_cast<int64_t>(std::min<uint64_t>(size, static_cast<uint64_t>(end - begin)))});
  }
  return out;
}

std::vector<ZipEntry> read_zip_directory(std::span<const std::byte> file, const std::string& where) {
  return DirectoryReader(file, where).read();
}

}  // namespace moerge
