#include "moerge/serve/http_listener.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "moerge/base/error.h"
#include "moerge/serve/http_access.h"

namespace moerge {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kBacklog = 128;
constexpr int kSpareThreads = 32;     // that tell connections too many so
constexpr size_t kMaxWaiting = 64;    // connections that wait for a thread
constexpr int kMaxDrained = 1 << 20;  // bytes of a refused request that are read so that its answer arrives
constexpr std::chrono::milliseconds kDrainTime{500};
constexpr std::chrono::milliseconds kPoll{100};

bool wait_for(int socket, short events, Clock::time_point until, const std::atomic<bool>& cut_off) {
  while (!cut_off) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
    pollfd waited = {socket, events, 0};
    const int ready =
        poll(&waited, 1, static_cast<int>(std::clamp(left, std::chrono::milliseconds{0}, kPoll).count()));
    if (ready > 0) return true;
    if (ready == 0 && left <= kPoll) return false;
    if (ready < 0 && errno != EINTR) return false;
  }
  return false;
}

// A connection whose reads end at a point in time, however many bytes trickle in before.
class TimedStream final : public httplib::Stream {
 public:
  TimedStream(int socket, const ListenerLimits& limits)
      : socket_(socket), write_time_(limits.request), cut_off_(limits.cut_off) {}

  void read_until(Clock::time_point until) { until_ = until; }

  bool is_readable() const override { return begin_ < end_; }
  bool wait_readable() const override { return is_readable() || wait_for(socket_, POLLIN, until_, cut_off_); }
  bool wait_writable() const override {
    return wait_for(socket_, POLLOUT, Clock::now() + write_time_, cut_off_);
  }
  bool is_peer_alive() const override {
    char byte;
    const ssize_t got = recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR));
  }
  ssize_t read(char* bytes, size_t size) override {
    if (!is_readable() && !fill()) return failed_;
    size = std::min(size, end_ - begin_);
    std::memcpy(bytes, buffer_ + begin_, size);
    begin_ += size;
    return static_cast<ssize_t>(size);
  }
  ssize_t write(const char* bytes, size_t size) override {
    for (;;) {
      if (!wait_writable()) return -1;
      const ssize_t sent = send(socket_, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent >= 0) return sent;
      if (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK) return -1;
    }
  }
  const char* buffered_data(size_t& size) const override {
    size = end_ - begin_;
    return size > 0 ? buffer_ + begin_ : nullptr;
  }
  void consume_buffered(size_t size) override { begin_ += std::min(size, end_ - begin_); }
  void get_remote_ip_and_port(std::string& address, int& port) const override { address = "", port = 0; }
  void get_local_ip_and_port(std::string& address, int& port) const override { address = "", port = 0; }
  socket_t socket() const override { return socket_; }
  time_t duration() const override { return 0; }

 private:
  bool fill() {
    for (;;) {
      failed_ = -1;
      if (!wait_for(socket_, POLLIN, until_, cut_off_)) return false;
      const ssize_t got = recv(socket_, buffer_, sizeof buffer_, MSG_DONTWAIT);
      if (got > 0) {
        begin_ = 0, end_ = static_cast<size_t>(got);
        return true;
      }
      failed_ = got;
      if (got == 0) return false;
      if (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK) return false;
    }
  }

  int socket_;
  std::chrono::seconds write_time_;
  const std::atomic<bool>& cut_off_;
  Clock::time_point until_;
  ssize_t failed_ = -1;
  size_t begin_ = 0, end_ = 0;
  char buffer_[16384];
};

// What the client still sends is read for a moment: closing with unread bytes would take the answer away from
// it.
void close_gently(int socket, const std::atomic<bool>& cut_off) {
  shutdown(socket, SHUT_WR);
  const auto until = Clock::now() + kDrainTime;
  char bytes[16384];
  for (int drained = 0; drained < kMaxDrained && wait_for(socket, POLLIN, until, cut_off);) {
    const ssize_t got = recv(socket, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) break;
    drained += static_cast<int>(std::max<ssize_t>(got, 0));
  }
  close(socket);
}

}  // namespace

bool CurrentRequest::reserve(int64_t bytes) {
  if (limits->bodies.fetch_add(bytes) + bytes > limits->max_bodies) {
    limits->bodies -= bytes;
    return false;
  }
  body += bytes;
  return true;
}

void CurrentRequest::keep(int64_t bytes) {
  if (bytes < body) limits->bodies -= std::exchange(body, bytes) - bytes;
}

void CurrentRequest::finish() {
  limits->bodies -= std::exchange(body, 0);
  status = 0;
  method.clear();
  path.clear();
}

CurrentRequest& current_request() {
  static thread_local CurrentRequest request;
  return request;
}

int bind_socket(const std::string& host, int port, bool only) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found); error != 0)
    fail(ErrorKind::usage,
         "--host {}: this computer knows no such name or address ({}); 127.0.0.1 is this "
         "computer alone, 0.0.0.0 every network it is in",
         host, gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owned(found, freeaddrinfo);
  int reason = 0;
  for (const addrinfo* at = found; at; at = at->ai_next) {
    const int made = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
    if (made < 0) {
      reason = errno;
      continue;
    }
    const int yes = 1, v6_only = only ? 1 : 0;
    setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (at->ai_family == AF_INET6) setsockopt(made, IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, sizeof v6_only);
    if (bind(made, at->ai_addr, at->ai_addrlen) == 0 && listen(made, kBacklog) == 0) return made;
    reason = errno;
    close(made);
  }
  const char* advice = reason == EADDRINUSE ? "; --port 0 lets the system choose a free port"
                       : reason == EACCES   ? "; ports below 1024 are the administrator's, --port 0 lets the "
                                              "system choose a free one"
                       : reason == EADDRNOTAVAIL ? "; it is no address of this computer"
                                                 : "";
  fail(ErrorKind::io, "cannot listen at {}, port {}: {}{}", host, port, std::strerror(reason), advice);
}

int socket_port(int socket) {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                                             : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

Listener::Listener(int socket, ListenerLimits& limits, std::function<void(const CurrentRequest&)> done)
    : limits_(limits), done_(std::move(done)) {
  svr_sock_ = socket;
  new_task_queue = [] { return new httplib::ThreadPool(4, kMaxConnections + kSpareThreads, kMaxWaiting); };
}

bool Listener::process_and_close_socket(socket_t socket) {
  const int before = limits_.connections.fetch_add(1);
  if (before >= kMaxConnections) {
    const std::string answer = fmt::format(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: "
        "close\r\nContent-Length: {}\r\n\r\n{}",
        limits_.busy.size(), limits_.busy);
    (void)send(socket, answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  } else {
    serve_guarded([&] { return serve(socket), true; });
    current_request().finish();
  }
  close_gently(socket, limits_.cut_off);
  limits_.connections--;
  return true;
}

void Listener::serve(socket_t socket) {
  const int yes = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  TimedStream stream(socket, limits_);
  CurrentRequest& request = current_request();
  request.limits = &limits_;
  for (int left = kMaxRequests; left > 0; left--) {
    // The fuller the house, the shorter a connection may be silent.
    const bool full = limits_.connections > kMaxConnections * 3 / 4;
    const auto until = Clock::now() + (full ? std::chrono::seconds(1) : limits_.idle);
    while (!stream.is_readable() &&
           !wait_for(socket, POLLIN, std::min(until, Clock::now() + kPoll), limits_.cut_off))
      if (limits_.stopping || Clock::now() >= until) return;
    request.start = Clock::now();
    stream.read_until(request.start + limits_.request);
    bool closed = false;
    const bool good = process_request(stream, "", 0, "", 0, left == 1 || limits_.stopping, closed, nullptr);
    if (request.status != 0) done_(request);
    request.finish();
    if (!good || closed || limits_.stopping) return;
  }
}

}  // namespace moerge
