#include "moerge/eval/python_text.h"

#include <algorithm>

#include "moerge/base/lower_case.h"
#include "moerge/base/utf8.h"

namespace moerge {
namespace {

// str.isspace(). Unicode's White_Space, and the separators of ASCII.
bool is_blank(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

// Bytes of the first character; of the last with `back`.
size_t first_size(std::string_view text) {
  size_t size = 1;
  while (size < text.size() && is_continuation(text[size])) size++;
  return size;
}
size_t last_size(std::string_view text) {
  size_t size = 1;
  while (size < text.size() && is_continuation(text[text.size() - size])) size++;
  return size;
}

bool is_blank(std::string_view character) {
  return character.size() <= 4 && is_utf8(character) && is_blank(code_point(character));
}

}  // namespace

size_t code_points(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(text, [](char c) { return !is_continuation(c); }));
}

std::string_view stripped(std::string_view text) {
  while (!text.empty() && is_blank(text.substr(0, first_size(text)))) text.remove_prefix(first_size(text));
  while (!text.empty() && is_blank(text.substr(text.size() - last_size(text))))
    text.remove_suffix(last_size(text));
  return text;
}

std::string capitalized(std::string text) {
  text = lower_case(text);
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

}  // namespace moerge
