#include "moerge/serve/rpc.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <ggml-backend.h>
#include <ggml-rpc.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <future>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/base/parallel.h"
#include "moerge/engine/llama_log.h"

namespace moerge {
namespace {

constexpr int kPatience = 5000;  // ms

class Socket {
 public:
  explicit Socket(const addrinfo& address)
      : handle_(socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC, address.ai_protocol)) {}
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() { close(handle_); }
  operator int() const { return handle_; }

 private:
  int handle_;
};

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Addresses find_host(const std::string& host, int port) {
  addrinfo wanted = {};
  wanted.ai_family = AF_INET;  // as llama.cpp
  wanted.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &wanted, &found);
  if (error != 0) fail(ErrorKind::usage, "{}: there is no such host: {}", host, gai_strerror(error));
  return Addresses(found, &freeaddrinfo);
}

// Empty when it answers.
std::string why_no_answer(const std::string& host, int port) {
  const Addresses addresses = find_host(host, port);
  const Socket socket(*addresses);
  fcntl(socket, F_SETFL, O_NONBLOCK);
  if (connect(socket, addresses->ai_addr, addresses->ai_addrlen) == 0) return "";
  if (errno != EINPROGRESS) return std::strerror(errno);
  pollfd wait = {socket, POLLOUT, 0};
  if (poll(&wait, 1, kPatience) <= 0) return "no answer within five seconds";
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size);
  return error ? std::strerror(error) : "";
}

void check_worker(const std::string& endpoint) {
  const size_t colon = endpoint.rfind(':');
  int port = 0;
  if (colon != std::string::npos)
    std::from_chars(endpoint.data() + colon + 1, endpoint.data() + endpoint.size(), port);
  if (colon == 0 || port < 1 || port > 65535 || endpoint.substr(colon + 1) != std::to_string(port))
    fail(ErrorKind::usage, "--rpc {}: HOST:PORT is expected, like 192.168.1.5:50052", endpoint);
  const std::string reason = why_no_answer(endpoint.substr(0, colon), port);
  if (!reason.empty())
    fail(ErrorKind::usage, "--rpc {}: {}; is `moerge worker` running there, and does --host let others in?",
         endpoint, reason);
  // It waits for its greeting without end; then the thread stays behind in a program that ends.
  std::promise<bool> greeted;
  std::future<bool> answer = greeted.get_future();
  std::thread([endpoint, greeted = std::move(greeted)]() mutable {
    const LlamaLog log;
    try {
      greeted.set_value(ggml_backend_rpc_add_server(endpoint.c_str()) != nullptr);
    } catch (const std::runtime_error&) {  // an assertion of llama.cpp's, see LlamaLog
      greeted.set_value(false);
    }
  }).detach();
  if (answer.wait_for(std::chrono::milliseconds(kPatience)) == std::future_status::timeout)
    fail(ErrorKind::usage, "--rpc {}: the worker there is busy with somebody else, or it is none", endpoint);
  if (answer.get()) return;
  fail(ErrorKind::usage,
       "--rpc {}: what answers there is no worker of this version; run the same moerge on all machines",
       endpoint);
}

void check_port(const WorkerOptions& options) {
  const Addresses addresses = find_host(options.host, options.port);
  const Socket socket(*addresses);
  const int yes = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(socket, addresses->ai_addr, addresses->ai_addrlen) != 0 || listen(socket, 1) != 0)
    fail(ErrorKind::io, "cannot listen on {}:{}: {}; --port takes another", options.host, options.port,
         std::strerror(errno));
}

std::vector<ggml_backend_dev_t> find_devices() {
  std::vector<ggml_backend_dev_t> devices;
  for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
    const ggml_backend_dev_t device = ggml_backend_dev_get(i);
    const auto type = ggml_backend_dev_type(device);
    if (type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU)
      devices.push_back(device);
  }
  if (devices.empty()) devices.push_back(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));
  return devices;
}

}  // namespace

void check_workers(const std::string& endpoints) {
  size_t at = 0;
  while (at <= endpoints.size()) {
    const size_t end = std::min(endpoints.find(',', at), endpoints.size());
    check_worker(endpoints.substr(at, end - at));
    at = end + 1;
  }
}

void run_worker(const WorkerOptions& options,
                const std::function<void(const std::string& devices)>& listens) {
  ggml_backend_load_all();
  std::vector<ggml_backend_dev_t> devices = find_devices();
  check_port(options);
  std::string names;
  for (const ggml_backend_dev_t device : devices)
    names += fmt::format("{}{}", names.empty() ? "" : ", ", ggml_backend_dev_name(device));
  for (const int ends : {SIGINT, SIGTERM, SIGHUP}) signal(ends, SIG_DFL);  // there is nothing to finish
  std::fflush(stdout);
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (nowhere >= 0) dup2(nowhere, STDOUT_FILENO);  // it would tell of every connection
  // The server does not return, so a visitor finds out when it listens.
  std::thread([options, names, listens] {
    while (!why_no_answer(options.host, options.port).empty())
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    listens(names);
  }).detach();
  const int threads = options.threads > 0 ? options.threads : default_threads();
  ggml_backend_rpc_start_server(fmt::format("{}:{}", options.host, options.port).c_str(), nullptr,
                                static_cast<size_t>(threads), devices.size(), devices.data());
  fail(ErrorKind::io, "the worker at {}:{} has ended", options.host, options.port);
}

}  // namespace moerge
