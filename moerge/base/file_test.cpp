#include "moerge/base/file.h"

#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <thread>

#include "moerge/base/error.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

TEST(File, ReadsAndLimits) {
  const TempDir dir;
  const fs::path file = dir.write("a", "hello");
  EXPECT_EQ(read_file(file, 5), "hello");
  EXPECT_THROW(read_file(file, 4), Error);
  EXPECT_THROW(read_file(dir.path(), 100), Error);
  EXPECT_THROW(read_file(dir / "missing", 100), Error);
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_THROW(read_file(dir / "pipe", 100), Error);
}

TEST(File, CopiesAnyRange) {
  const TempDir dir;
  std::string text;
  for (int i = 0; i < 300000; i++) text += static_cast<char>(i * 7 + i / 256);
  const File source = File::open_read(dir.write("source", text));
  File target = File::create(dir / "target");
  copy_range(source, 3, target, 10, 200001);
  EXPECT_EQ(read_file(dir / "target", 1 << 20).substr(10), text.substr(3, 200001));
  EXPECT_THROW(copy_range(source, 299999, target, 0, 10), Error);
}

TEST(File, MapsAndReleases) {
  const TempDir dir;
  const MappedFile map(dir.write("a", std::string(10000, 'x')));
  EXPECT_EQ(map.bytes().size(), 10000u);
  map.release(map.bytes().subspan(5000, 100));
  EXPECT_EQ(map.bytes()[5050], std::byte{'x'});
  EXPECT_EQ(MappedFile(dir.write("empty", "")).bytes().size(), 0u);
}

TEST(File, FullDiskIsAnIoError) {
  const TempDir dir;
  // A file size limit gives the same short write and error path as a full disk.
  rlimit old = {};
  getrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {4096, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string text(10000, 'x');
  try {
    write_file(dir / "a", text);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_NE(std::string(error.what()).find("cannot write"), std::string::npos);
  }
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, SIG_DFL);
}

TEST(File, Within) {
  const TempDir dir;
  fs::create_directories(dir / "a/b");
  fs::create_directory_symlink(dir / "a", dir / "link");
  EXPECT_TRUE(is_within(dir / "a/b", dir / "a"));
  EXPECT_TRUE(is_within(dir / "link/b", dir / "a"));
  EXPECT_TRUE(is_within(dir / "a", dir / "a"));
  EXPECT_FALSE(is_within(dir / "ab", dir / "a"));
  EXPECT_FALSE(is_within(dir / "a", dir / "a/b"));
}

TEST(File, HumanBytes) {
  EXPECT_EQ(human_bytes(0), "0 bytes");
  EXPECT_EQ(human_bytes(999), "999 bytes");
  EXPECT_EQ(human_bytes(1500), "1.5 kB");
  EXPECT_EQ(human_bytes(6'500'000'000), "6.5 GB");
  EXPECT_EQ(human_bytes(812'000'000), "812 MB");
  EXPECT_EQ(human_bytes(999'999), "1.0 MB");
}

}  // namespace
}  // namespace moerge
