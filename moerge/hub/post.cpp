#include "moerge/hub/post.h"

#include <utility>

namespace moerge {

std::string json_line(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

HttpRequest json_post(std::string url, const Json& body, const std::string& type) {
  return {.method = "POST",
          .url = std::move(url),
          .headers = {"Content-Type: " + type, "Accept: " + type},
          .body = json_line(body),
          .silence_seconds = kPatienceSeconds};
}

}  // namespace moerge
