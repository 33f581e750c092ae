#include "moerge/base/html_text.h"

#include <fmt/format.h>

#include <optional>

#include "moerge/base/utf8.h"

namespace moerge {

std::string html_text(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::optional<size_t> wrong = find_invalid_utf8(text);
    for (const char c : text.substr(0, wrong.value_or(text.size()))) {
      const auto byte = static_cast<unsigned char>(c);
      if (c == '&')
        out += "&amp;";
      else if (c == '<')
        out += "&lt;";
      else if (c == '>')
        out += "&gt;";
      else if (c == '"')
        out += "&quot;";
      else if (c == '\'')
        out += "&#39;";
      else if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f)
        out += fmt::format("\\x{:02x}", byte);
      else
        out += c;
    }
    if (!wrong) break;
    out += "\xef\xbf\xbd";
    text.remove_prefix(*wrong + 1);
  }
  return out;
}

}  // namespace moerge
