#pragma once
// Bytes as text, for JSON.

#include <string>
#include <string_view>

namespace moerge {

/// RFC 4648, with "=" at the end, without line ends.
std::string base64(std::string_view bytes);

}  // namespace moerge
