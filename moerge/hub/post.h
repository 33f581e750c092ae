#pragma once
// Requests that write to the Hub, in its JSON.

#include <string>

#include "moerge/base/json.h"
#include "moerge/hub/http.h"

namespace moerge {

/// What the Hub does for many files may take it a while, in silence.
inline constexpr int kPatienceSeconds = 120;

/// A POST of JSON.
HttpRequest json_post(std::string url, const Json& body, const std::string& type = "application/json");

/// On one line. A text that is not UTF-8 gets replacement characters: JSON must be.
std::string json_line(const Json& json);

}  // namespace moerge
