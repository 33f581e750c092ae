#include "moerge/base/terminal_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "moerge/base/utf8.h"

namespace moerge {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

// What the first byte promises; 1 for bytes that begin nothing.
size_t promised_length(unsigned char first) {
  return first >= 0xf0 && first <= 0xf4  ? 4
         : first >= 0xe0 && first < 0xf0 ? 3
         : first >= 0xc2 && first < 0xe0 ? 2
                                         : 1;
}

void append_shown(std::string& out, std::string_view character) {
  const char32_t code = code_point(character);
  const bool direction = code == 0x61c || code == 0x200e || code == 0x200f ||
                         (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
  if ((code < 0x20 && code != '\n' && code != '\t') || (code >= 0x7f && code < 0xa0))
    out += fmt::format("\\x{:02x}", static_cast<uint32_t>(code));
  else if (direction || code == 0x2028 || code == 0x2029)
    out += fmt::format("\\u{{{:04x}}}", static_cast<uint32_t>(code));
  else
    out += character;
}

// Could more bytes make one character of these? They are fewer than the first one promises.
bool may_go_on(std::string_view begun) {
  for (const char* more : {"\x80\x80\x80", "\xbf\xbf\xbf"}) {
    const std::string whole =
        std::string(begun) +
        std::string(more, promised_length(static_cast<unsigned char>(begun[0])) - begun.size());
    if (is_utf8(whole)) return true;
  }
  return false;
}

}  // namespace

std::string TerminalText::add(std::string_view part) {
  const std::string text = waiting_ + std::string(part);
  waiting_.clear();
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t length = promised_length(static_cast<unsigned char>(text[at]));
    const std::string_view character = std::string_view(text).substr(at, length);
    if (character.size() < length && may_go_on(character)) {
      waiting_ = character;
      break;
    }
    if (character.size() == length && is_utf8(character)) {
      append_shown(out, character);
      at += length;
    } else {
      out += kReplacement;
      at++;
    }
  }
  return out;
}

std::string TerminalText::finish() {
  if (waiting_.empty()) return {};
  waiting_.clear();
  return std::string(kReplacement);
}

std::string terminal_text(std::string_view text) {
  TerminalText shown;
  std::string out = shown.add(text);
  return out + shown.finish();
}

}  // namespace moerge
