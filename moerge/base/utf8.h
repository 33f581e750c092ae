#pragma once
// Is a text UTF-8? RFC 3629: no surrogates, nothing longer than needed, nothing beyond U+10FFFF.

#include <cstddef>
#include <optional>
#include <string_view>

namespace moerge {

/// Where the first character that is none begins.
std::optional<size_t> find_invalid_utf8(std::string_view text);

/// Of one character that is UTF-8.
char32_t code_point(std::string_view character);

/// Not the first byte of a character.
inline bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

inline bool is_utf8(std::string_view text) { return !find_invalid_utf8(text); }

}  // namespace moerge
