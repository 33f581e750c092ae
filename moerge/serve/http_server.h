#pragma once
// The OpenAI API over HTTP. Its port is there before the model: a client that asks meanwhile is told to wait.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/serve/inference.h"

namespace moerge {

struct HttpOptions {
  std::vector<std::string> hosts = {"127.0.0.1"};  // names or addresses to listen at
  int port = 8080;                                 // 0: the system chooses one
  std::vector<std::string> keys;                   // with none everybody is served
  std::string cors_origin;                         // a page's origin that may ask as well, or "*"
  int64_t max_body = 16 << 20;                     // bytes of one request
  int request_seconds = 30;                        // in which a client has to send its request
  bool page = true, show_routing = false;
  /// Hears a line for each request: method, path, status, seconds. Never a text or a key.
  std::function<void(std::string_view)> log;
};

class HttpServer {
 public:
  /// Binds, and from here on answers: /health and the page, 503 to all else. Throws usage or io where it
  /// cannot listen.
  explicit HttpServer(HttpOptions options);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  /// stop().
  ~HttpServer();

  /// "http://127.0.0.1:8080", one for each host.
  std::vector<std::string> addresses() const;
  /// Only this computer can connect.
  bool loopback_only() const;

  /// Answers with this model, which has to live until stop() has returned.
  void attach(Inference& inference);
  /// Ends what is being answered (a stream with an error, the rest with 503), waits up to some 3 seconds for
  /// clients to hear it, and frees the port.
  void stop();

 private:
  struct Task;
  std::unique_ptr<Task> task_;
};

}  // namespace moerge
