#pragma once
// Capitals of ASCII as small letters, whatever the locale; all other bytes stay.

#include <string>
#include <string_view>

namespace moerge {

inline std::string lower_case(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

}  // namespace moerge
