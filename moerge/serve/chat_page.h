#pragma once
// The page that the HTTP server shows at /.

#include <string_view>

namespace moerge {

std::string_view chat_page();         // HTML
std::string_view chat_page_policy();  // its Content-Security-Policy

}  // namespace moerge
