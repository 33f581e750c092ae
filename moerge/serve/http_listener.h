#pragma once
// cpp-httplib's server with limits of its own: bounds on connections, on the time that a client may take to
// send a request, and on the bytes of all requests together. Only for this folder.

#include <cpp-httplib/httplib.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace moerge {

/// Of all listeners of one server.
struct ListenerLimits {
  std::chrono::seconds request{30};  // from a request's first byte to its last
  std::chrono::seconds idle{10};     // between two requests of a connection
  int64_t max_bodies = 64 << 20;     // bytes of all requests that are being read or answered
  std::string busy;                  // the body of the answer to one connection too many

  std::atomic<bool> stopping = false;  // no more requests; those that are answered are told so
  std::atomic<bool> cut_off = false;   // connections are given up as they stand
  std::atomic<int> connections = 0;
  std::atomic<int64_t> bodies = 0;
};

/// Connections that are served at once; those beyond are told so and closed.
inline constexpr int kMaxConnections = 256;
inline constexpr int kMaxRequests = 1000;  // of one connection

/// What is known of the request that this thread answers.
struct CurrentRequest {
  ListenerLimits* limits = nullptr;
  int64_t body = 0;  // its share of limits->bodies
  std::string method, path;
  int status = 0;
  std::chrono::steady_clock::time_point start;

  /// False when the other requests leave no room.
  bool reserve(int64_t bytes);
  /// What was reserved beyond is given back.
  void keep(int64_t bytes);
  void finish();
};
CurrentRequest& current_request();

/// Listens at the host's addresses. Throws usage for a host that is none, io where the system refuses.
/// `only`: an IPv6 socket does not take IPv4 as well.
int bind_socket(const std::string& host, int port, bool only);
int socket_port(int socket);

class Listener : public httplib::Server {
 public:
  /// Takes the bound socket. `done` hears of each request that was answered.
  Listener(int socket, ListenerLimits& limits, std::function<void(const CurrentRequest&)> done);

 private:
  bool process_and_close_socket(socket_t socket) override;
  void serve(socket_t socket);

  ListenerLimits& limits_;
  std::function<void(const CurrentRequest&)> done_;
};

}  // namespace moerge
