#include "moerge/formats/zip.h"

#include <gtest/gtest.h>

#include <span>

#include "moerge/base/error.h"
#include "moerge/testing/tiny_pytorch.h"

namespace moerge {
namespace {

using testing::le;
using testing::TinyZipEntry;
using testing::zip_bytes;

std::vector<ZipEntry> read(const std::string& file) {
  return read_zip_directory(std::as_bytes(std::span(file)), "f");
}

void expect_refused(const std::string& file, const std::string& because) {
  std::string message;
  try {
    read(file);
  } catch (const Error& error) {
    message = error.what();
  }
  EXPECT_NE(message.find(because), std::string::npos) << "expected: " << because << "\nfound: " << message;
}

// The file with other bytes `at` bytes after the last `mark`.
std::string changed(std::string file, const std::string& mark, size_t at, const std::string& bytes) {
  const size_t start = file.rfind(mark);
  EXPECT_NE(start, std::string::npos);
  return file.replace(start + at, bytes.size(), bytes);
}

const std::vector<TinyZipEntry> kTwo = {{"a/data.pkl", "12345"}, {"a/data/0", "6789"}};
const std::string kEnd = "PK\5\6", kEntry = "PK\1\2", kEnd64 = "PK\6\6", kLocator = "PK\6\7";

TEST(Zip, ReadsWhatIsThere) {
  for (const bool wide : {false, true}) {
    const std::string file = zip_bytes(kTwo, wide);
    EXPECT_TRUE(is_zip(std::as_bytes(std::span(file))));
    const std::vector<ZipEntry> entries = read(file);
    ASSERT_EQ(entries.size(), 2u);
    EXPECT_EQ(entries[0].name, "a/data.pkl");
    EXPECT_EQ(entries[1].name, "a/data/0");
    EXPECT_EQ(file.substr(static_cast<size_t>(entries[0].offset), static_cast<size_t>(entries[0].size)),
              "12345");
    EXPECT_EQ(file.substr(static_cast<size_t>(entries[1].offset), static_cast<size_t>(entries[1].size)),
              "6789");
  }
}

TEST(Zip, ACommentMayFollow) {
  const std::string comment = "PK\5\6 is no end here";
  const std::string file = changed(zip_bytes(kTwo), kEnd, 20, le(comment.size(), 2)) + comment;
  EXPECT_EQ(read(file).size(), 2u);
  EXPECT_EQ(read(zip_bytes({})).size(), 0u);
}

TEST(Zip, SaysWhatIsCompressed) {
  TinyZipEntry entry = {"a", "1234"};
  entry.method = 8;
  EXPECT_EQ(read(zip_bytes({entry})).at(0).compression, 8);
  EXPECT_EQ(read(zip_bytes(kTwo)).at(0).compression, 0);
}

TEST(Zip, RefusesEncryptionAndParts) {
  TinyZipEntry entry = {"a", "1234"};
  entry.flags |= 1;
  expect_refused(zip_bytes({entry}), "\"a\" is encrypted");
  expect_refused(changed(zip_bytes(kTwo), kEnd, 4, le(1, 2)), "several disks");
  expect_refused(changed(zip_bytes(kTwo), kEnd, 8, le(1, 2)), "several disks");
  expect_refused(changed(zip_bytes(kTwo), kEntry, 34, le(1, 2)), "several disks");
}

TEST(Zip, EveryTruncatedFileIsRefused) {
  for (const bool wide : {false, true}) {
    const std::string file = zip_bytes(kTwo, wide);
    for (size_t size = 0; size < file.size(); size++) expect_refused(file.substr(0, size), "truncated");
  }
}

TEST(Zip, RefusesNamesAndPlacesTwice) {
  expect_refused(zip_bytes({{"a", "1"}, {"a", "2"}}), "two entries named \"a\"");
  TinyZipEntry second = {"b", "2"};
  second.local_name = "c";
  expect_refused(zip_bytes({{"a", "1"}, second}), "the header of \"b\" is another than the directory's");
  second.claimed_offset = 0;
  expect_refused(zip_bytes({{"a", "1"}, second}), "lies over the entry before it");
  TinyZipEntry first = {"a", zip_bytes({{"b", "2"}})};  // an entry inside another one
  second.claimed_offset = static_cast<int64_t>(30 + 1 + 9);
  expect_refused(zip_bytes({first, second}), "\"b\" lies over the entry before it");
}

TEST(Zip, RefusesSizesAndPlacesBeyondTheFile) {
  for (const uint64_t size : {uint64_t{6}, uint64_t{1} << 31, uint64_t{UINT64_MAX - 1}, uint64_t{1} << 62}) {
    TinyZipEntry entry = {"a", "12345"};
    entry.claimed_size = size;
    expect_refused(zip_bytes({entry}, true), "truncated or damaged: an entry of ");
  }
  for (const int64_t offset : {int64_t{1}, int64_t{1000}, INT64_MAX}) {
    TinyZipEntry entry = {"a", "12345"};
    entry.claimed_offset = offset;
    expect_refused(zip_bytes({entry}, true), "damaged");
  }
  const std::string wide = zip_bytes(kTwo, true), narrow = zip_bytes(kTwo);
  expect_refused(changed(wide, kLocator, 8, le(UINT64_MAX - 8, 8)), "the zip64 end record of 56 bytes");
  expect_refused(changed(wide, kLocator, 8, le(0, 8)), "not where its locator says");
  expect_refused(changed(wide, kEnd64, 24, le(UINT64_MAX, 8) + le(UINT64_MAX, 8)),
                 "18446744073709551615 entries");
  expect_refused(changed(wide, kEnd64, 40, le(UINT64_MAX, 8)), "a directory of");
  expect_refused(changed(wide, kEnd64, 48, le(UINT64_MAX, 8)), "a directory of");
  expect_refused(changed(narrow, kEnd, 12, le(60, 4)), "does not end where the end record begins");
  expect_refused(changed(narrow, kEnd, 8, le(1, 2) + le(1, 2)), "bytes after the last entry");
  expect_refused(changed(narrow, kEnd, 8, le(3, 2) + le(3, 2)), "damaged");
}

TEST(Zip, RefusesDamagedEntries) {
  const std::string file = zip_bytes(kTwo), wide = zip_bytes(kTwo, true);
  expect_refused(changed(file, kEntry, 0, "PK\1\3"), "does not consist of entries");
  expect_refused(changed(file, kEntry, 28, le(0xffff, 2)), "a name in the directory");
  expect_refused(changed(file, kEntry, 20, le(3, 4)), "is stored and has 3 bytes, 4 unpacked");
  expect_refused(changed(file, "PK\3\4", 0, "PK\3\5"), "is not at byte");
  expect_refused(changed(file, kEntry, 20, le(UINT32_MAX, 4)), "zip64 size or place is missing");
  expect_refused(changed(wide, "a/data/0", 8 + 2, le(100, 2)), "an extra field");
}

}  // namespace
}  // namespace moerge
