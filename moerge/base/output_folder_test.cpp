#include "moerge/base/output_folder.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

TEST(OutputFolder, AppearsAtCommitOnly) {
  const TempDir dir;
  {
    OutputFolder out(dir / "deep/er/out", false);
    write_file(out.path() / "a", "1");
    EXPECT_FALSE(fs::exists(dir / "deep/er/out"));
    out.commit();
  }
  EXPECT_EQ(read_file(dir / "deep/er/out/a", 10), "1");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "deep/er"), {}), 1);
}

TEST(OutputFolder, LeavesNothingWithoutCommit) {
  const TempDir dir;
  {
    OutputFolder out(dir / "out", false);
    write_file(out.path() / "a", "1");
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(OutputFolder, ReplacesAModelOnlyWhenTold) {
  const TempDir dir;
  dir.write("out/config.json", "{}");
  dir.write("out/old", "old");
  EXPECT_THROW(OutputFolder(dir / "out", false), Error);
  { OutputFolder abandoned(dir / "out", true); }
  EXPECT_EQ(read_file(dir / "out/old", 10), "old");
  {
    OutputFolder out(dir / "out/", true);
    write_file(out.path() / "new", "new");
    out.commit();
  }
  EXPECT_FALSE(fs::exists(dir / "out/old"));
  EXPECT_EQ(read_file(dir / "out/new", 10), "new");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

TEST(OutputFolder, DoesNotReplaceWhatAppearedMeanwhile) {
  const TempDir dir;
  {
    OutputFolder out(dir / "out", false);
    dir.write("out/config.json", "{}");
    EXPECT_THROW(out.commit(), Error);
  }
  EXPECT_EQ(read_file(dir / "out/config.json", 10), "{}");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

TEST(OutputFolder, NeverReplacesWhatIsNoModel) {
  const TempDir dir;
  dir.write("home/thesis.tex", "years");
  EXPECT_THROW(OutputFolder(dir / "home", true), Error);
  dir.write("file", "x");
  EXPECT_THROW(OutputFolder(dir / "file", true), Error);
}

TEST(OutputFolder, AnEmptyFolderIsTaken) {
  const TempDir dir;
  fs::create_directory(dir / "out");
  OutputFolder out(dir / "out", false);
  write_file(out.path() / "a", "1");
  out.commit();
  EXPECT_TRUE(fs::exists(dir / "out/a"));
}

TEST(OutputFolder, HandsOnWhatAKilledRunLeft) {
  const TempDir dir;
  dir.write(".out.moerge-partial/leftover", "x");
  OutputFolder out(dir / "out", false);
  fs::create_symlink(dir / "elsewhere", out.path() / "kept");
  out.clear([](const std::string& name) { return name == "leftover"; });
  EXPECT_TRUE(fs::exists(out.path() / "leftover"));
  EXPECT_FALSE(fs::is_symlink(out.path() / "kept"));
  out.clear([](const std::string&) { return false; });
  out.sync();
  out.commit();
  EXPECT_TRUE(fs::is_empty(dir / "out"));
}

TEST(OutputFolder, TwoRunsExcludeEachOther) {
  const TempDir dir;
  const OutputFolder first(dir / "out", false);
  EXPECT_THROW(OutputFolder(dir / "out", false), Error);
  EXPECT_THROW(OutputFolder(dir / "out", false, OutputFolder::Use::together), Error);
  EXPECT_TRUE(fs::exists(first.path()));
}

TEST(OutputFolder, RunsMayWorkTogetherAndKeepWhatTheyMade) {
  const TempDir dir;
  {
    OutputFolder first(dir / "out", false, OutputFolder::Use::together);
    OutputFolder second(dir / "out", false, OutputFolder::Use::together);
    EXPECT_THROW(OutputFolder(dir / "out", false), Error);
    write_file(first.path() / "a", "1");
    write_file(second.path() / "b", "2");
    first.keep(true);
    second.keep(true);
  }
  OutputFolder joined(dir / "out", false);
  joined.sync();
  joined.commit();
  EXPECT_EQ(read_file(dir / "out/a", 10) + read_file(dir / "out/b", 10), "12");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

}  // namespace
}  // namespace moerge
