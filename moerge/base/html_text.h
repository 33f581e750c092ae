#pragma once
// Texts by strangers on a page of HTML.

#include <string>
#include <string_view>

namespace moerge {

/// Whatever it holds: text of the page, in an element or an attribute in double quotes. Control characters
/// and what is not UTF-8 become visible.
std::string html_text(std::string_view text);

}  // namespace moerge
