#pragma once
// The task and suite files of this folder, as texts in the program (cmake/embed_files.cmake).

#include <span>
#include <string_view>

namespace moerge {

struct BuiltinFile {
  std::string_view name;  // "tasks/arc_easy.yaml"
  std::string_view text;
};

/// By name.
std::span<const BuiltinFile> builtin_files();

}  // namespace moerge
