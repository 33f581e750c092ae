#pragma once
// How much memory a process may still take.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace moerge {

struct AvailableMemory {
  int64_t bytes = 0;
  std::string source;  // what says so: "/proc/meminfo", or the control group's file
};

/// The least of what the kernel calls available and what each control group (versions 1 and 2) around this
/// process leaves; cached pages of files count as free, the kernel takes them back. Empty where nothing
/// tells. `root`: where proc/ and sys/ lie.
std::optional<AvailableMemory> available_memory(const std::filesystem::path& root = "/");

}  // namespace moerge
