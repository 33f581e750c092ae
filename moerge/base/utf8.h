#pragma once
// Is a text UTF-8? RFC 3629: no surrogates, nothing longer than needed, nothing beyond U+10FFFF.

#include <cstddef>
#include <optional>
#include <string_view>

namespace moerge {

/// Where the first character that is none begins.
std::optional<size_t> find_invalid_utf8(std::string_view text);

inline bool is_utf8(std::string_view text) { return !find_invalid_utf8(text); }

}  // namespace moerge
