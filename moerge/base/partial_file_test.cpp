#include "moerge/base/partial_file.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

TEST(PartialFile, AppearsAtCommitOnly) {
  const testing::TempDir folder;
  const auto target = folder.path() / "out.bin";
  const std::string text = "whole";
  {
    PartialFile partial(target);
    partial.file().write_at(0, bytes_of(text));
    EXPECT_FALSE(std::filesystem::exists(target));
    partial.commit();
  }
  EXPECT_EQ(read_file(target, 100), text);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / ".out.bin.moerge-partial"));
}

TEST(PartialFile, LeavesTheOldFileAndNothingHalfMade) {
  const testing::TempDir folder;
  const auto target = folder.path() / "out.bin";
  write_file(target, "old");
  const std::string text = "half";
  {
    PartialFile partial(target);
    partial.file().write_at(0, bytes_of(text));
  }
  EXPECT_EQ(read_file(target, 100), "old");
  EXPECT_FALSE(std::filesystem::exists(folder.path() / ".out.bin.moerge-partial"));
}

TEST(PartialFile, WritesOverALeftoverAndExcludesASecondRun) {
  const testing::TempDir folder;
  write_file(folder.path() / ".out.bin.moerge-partial", "what a killed run had written so far");
  PartialFile partial(folder.path() / "out.bin");
  EXPECT_EQ(partial.file().size(), 0);
  EXPECT_THROW(PartialFile(folder.path() / "out.bin"), Error);
}

}  // namespace
}  // namespace moerge
