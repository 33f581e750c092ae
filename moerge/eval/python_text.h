#pragma once
// Texts as Python sees them: lengths and blanks of lm-eval's scores are Python's.

#include <cstddef>
#include <string>
#include <string_view>

namespace moerge {

/// len() of a str that is UTF-8 here.
size_t code_points(std::string_view text);
/// str.strip()
std::string_view stripped(std::string_view text);
/// str.capitalize() for ASCII: a first letter becomes a capital, all others small. Letters beyond ASCII stay
/// as they are.
std::string capitalized(std::string text);

}  // namespace moerge
