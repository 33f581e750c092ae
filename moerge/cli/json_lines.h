#pragma once
// Texts of a .jsonl file on the command line.

#include <string>
#include <string_view>
#include <vector>

namespace moerge {

/// The "text" of every row; blank lines are skipped. `file` starts messages. Throws input for a row that is
/// no object or has no such text.
std::vector<std::string> json_lines(std::string_view lines, const std::string& file);

}  // namespace moerge
