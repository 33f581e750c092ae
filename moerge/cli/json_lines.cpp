#include "moerge/cli/json_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "moerge/base/error.h"
#include "moerge/base/json.h"

namespace moerge {

std::vector<std::string> json_lines(std::string_view lines, const std::string& file) {
  std::vector<std::string> out;
  for (int64_t number = 1; !lines.empty(); number++) {
    const std::string_view line = lines.substr(0, lines.find('\n'));
    lines.remove_prefix(std::min(lines.size(), line.size() + 1));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}:{}", file, number);
    const Json object = parse_json(line, where);
    if (!object.is_object()) fail(ErrorKind::input, "{}: an object with \"text\" is expected", where);
    const std::optional<std::string> text = json_string(object, "text", where);
    if (!text) fail(ErrorKind::input, "{}: \"text\" is missing", where);
    out.push_back(*text);
  }
  return out;
}

}  // namespace moerge
