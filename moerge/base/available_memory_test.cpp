#include "moerge/base/available_memory.h"

#include <gtest/gtest.h>

#include "moerge/base/file.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {
namespace fs = std::filesystem;

constexpr int64_t kGiB = int64_t{1} << 30;

// A machine's proc/ and sys/.
class Machine {
 public:
  Machine() = default;
  explicit Machine(int64_t available) {
    put("proc/meminfo", "MemTotal:       99999999 kB\nMemFree:  1 kB\nMemAvailable:   " +
                            std::to_string(available / 1024) + " kB\n");
  }
  void put(const std::string& file, const std::string& text) {
    fs::create_directories((folder_.path() / file).parent_path());
    write_file(folder_.path() / file, text);
  }
  void group1(const std::string& path, int64_t limit, int64_t usage, int64_t cached = 0) {
    put("sys/fs/cgroup/memory" + path + "/memory.limit_in_bytes", std::to_string(limit) + "\n");
    put("sys/fs/cgroup/memory" + path + "/memory.usage_in_bytes", std::to_string(usage) + "\n");
    put("sys/fs/cgroup/memory" + path + "/memory.stat",
        "cache 1\ntotal_cache 7\ntotal_inactive_file " + std::to_string(cached) + "\ntotal_active_file 0\n");
  }
  void group2(const std::string& path, const std::string& limit, int64_t usage, int64_t cached = 0) {
    put("sys/fs/cgroup" + path + "/memory.max", limit + "\n");
    put("sys/fs/cgroup" + path + "/memory.current", std::to_string(usage) + "\n");
    put("sys/fs/cgroup" + path + "/memory.stat",
        "anon 5\nfile 9\nactive_file " + std::to_string(cached) + "\ninactive_file 0\n");
  }
  int64_t available() const { return available_memory(folder_.path()).value().bytes; }
  std::string source() const {
    return fs::path(available_memory(folder_.path()).value().source)
        .lexically_relative(folder_.path())
        .string();
  }
  const fs::path& root() const { return folder_.path(); }

 private:
  testing::TempDir folder_;
};

TEST(AvailableMemory, OfTheMachine) {
  const Machine machine(8 * kGiB);
  EXPECT_EQ(machine.available(), 8 * kGiB);
  EXPECT_EQ(machine.source(), "proc/meminfo");
}

TEST(AvailableMemory, NothingTells) {
  const Machine machine;
  EXPECT_FALSE(available_memory(machine.root()));
}

TEST(AvailableMemory, Version2LeavesWhatIsNotUsedOrOnlyCached) {
  Machine machine(8 * kGiB);
  machine.put("proc/self/cgroup", "0::/user.slice/a.scope\n");
  machine.group2("/user.slice/a.scope", std::to_string(4 * kGiB), 3 * kGiB, kGiB / 2);
  EXPECT_EQ(machine.available(), kGiB + kGiB / 2);
  EXPECT_EQ(machine.source(), "sys/fs/cgroup/user.slice/a.scope/memory.max");
}

TEST(AvailableMemory, GroupsAroundItCountToo) {
  Machine machine(8 * kGiB);
  machine.put("proc/self/cgroup", "0::/outer/inner\n");
  machine.group2("/outer/inner", "max", kGiB);
  machine.group2("/outer", std::to_string(2 * kGiB), kGiB);
  EXPECT_EQ(machine.available(), kGiB);
  EXPECT_EQ(machine.source(), "sys/fs/cgroup/outer/memory.max");
}

TEST(AvailableMemory, Version1) {
  Machine machine(8 * kGiB);
  machine.put("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/docker/ab\n0::/\n");
  machine.group1("/docker/ab", 3 * kGiB, 2 * kGiB, kGiB / 4);
  EXPECT_EQ(machine.available(), kGiB + kGiB / 4);
  machine.group1("/docker/ab", 0x7FFFFFFFFFFFF000, 2 * kGiB);  // version 1's "no limit"
  EXPECT_EQ(machine.available(), 8 * kGiB);
}

// The path is the host's, and the container sees its own group as the root of the mount.
TEST(AvailableMemory, InsideAContainer) {
  Machine machine(8 * kGiB);
  machine.group2("", std::to_string(kGiB), kGiB / 4);
  for (const char* path : {"/docker/not-here", "/", "/../..", "/../other"}) {
    machine.put("proc/self/cgroup", std::string("0::") + path + "\n");
    EXPECT_EQ(machine.available(), kGiB - kGiB / 4) << path;
  }
}

TEST(AvailableMemory, AGroupOverItsLimitLeavesNothing) {
  Machine machine(8 * kGiB);
  machine.put("proc/self/cgroup", "0::/\n");
  machine.group2("", std::to_string(kGiB), 2 * kGiB);
  EXPECT_EQ(machine.available(), 0);
}

TEST(AvailableMemory, WhatIsNoNumberIsPassedOver) {
  Machine machine(8 * kGiB);
  machine.put("proc/self/cgroup", "nonsense\n1\n0::/\n4:memory\n");
  machine.group2("", "-5", 1);
  EXPECT_EQ(machine.available(), 8 * kGiB);
  machine.group2("", "", 1);
  EXPECT_EQ(machine.available(), 8 * kGiB);
}

}  // namespace
}  // namespace moerge
