#include "moerge/base/available_memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string_view>

namespace moerge {
namespace fs = std::filesystem;
namespace {

// "No limit" is "max" in version 2, the largest multiple of a page in version 1.
constexpr int64_t kNoLimit = int64_t{1} << 60;

std::optional<int64_t> parse_number(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 0) return {};
  return value;
}

std::optional<int64_t> read_number(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  return std::getline(in, line) ? parse_number(line) : std::nullopt;
}

// The number after `key` and a blank or tab, at the start of a line.
std::optional<int64_t> read_line(const fs::path& file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key) && line.size() > key.size() && (line[key.size()] == ' ' || key.back() == ':'))
      return parse_number(std::string_view(line).substr(key.size()));
  return {};
}

// What differs between the versions of control groups.
struct Version {
  const char* mount;
  const char *limit, *usage;
  const char* cached[2];  // keys of memory.stat: pages of files
};
constexpr Version kVersion1 = {"sys/fs/cgroup/memory",
                               "memory.limit_in_bytes",
                               "memory.usage_in_bytes",
                               {"total_active_file", "total_inactive_file"}};
constexpr Version kVersion2 = {
    "sys/fs/cgroup", "memory.max", "memory.current", {"active_file", "inactive_file"}};

void take_least(std::optional<AvailableMemory>& least, int64_t bytes, std::string source) {
  if (!least || bytes < least->bytes) least = {std::max<int64_t>(0, bytes), std::move(source)};
}

void add_group(const fs::path& folder, const Version& version, std::optional<AvailableMemory>& least) {
  const std::optional<int64_t> limit = read_number(folder / version.limit);
  const std::optional<int64_t> usage = read_number(folder / version.usage);
  if (!limit || *limit >= kNoLimit || !usage) return;
  int64_t held = *usage;
  for (const char* key : version.cached) held -= read_line(folder / "memory.stat", key).value_or(0);
  take_least(least, *limit - std::clamp<int64_t>(held, 0, *limit), (folder / version.limit).string());
}

// A group and all those around it. Inside a container the path may be one that only the host sees; the
// mount's root is then the container's own group.
void add_groups(const fs::path& root, const Version& version, const std::string& group,
                std::optional<AvailableMemory>& least) {
  const fs::path mount = root / version.mount;
  fs::path path = fs::path(group).relative_path().lexically_normal();
  if (!path.empty() && *path.begin() == "..") path.clear();
  for (; !path.empty() && path != "."; path = path.parent_path()) add_group(mount / path, version, least);
  add_group(mount, version, least);
}

}  // namespace

std::optional<AvailableMemory> available_memory(const fs::path& root) {
  std::optional<AvailableMemory> least;
  const fs::path meminfo = root / "proc/meminfo";
  if (const auto kilobytes = read_line(meminfo, "MemAvailable:"); kilobytes && *kilobytes < kNoLimit / 1024)
    take_least(least, *kilobytes * 1024, meminfo.string());
  // Lines like "4:memory:/docker/ab12" (version 1) and "0::/user.slice" (version 2).
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (controllers == ",,")
      add_groups(root, kVersion2, path, least);
    else if (controllers.find(",memory,") != std::string::npos)
      add_groups(root, kVersion1, path, least);
  }
  return least;
}

}  // namespace moerge
