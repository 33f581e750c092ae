#include "moerge/engine/template_process.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <new>
#include <optional>
#include <stdexcept>

#include "jinja/lexer.h"
#include "jinja/parser.h"
#include "jinja/runtime.h"
#include "json.h"
#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"

namespace moerge {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMaxMemory = 512 << 20;
constexpr uint64_t kMaxText = 64 << 20;
constexpr rlim_t kMaxStack = 8 << 20;

// One message on the socket is this in front of `size` bytes.
struct Header {
  uint64_t tag = 0;  // of a question: which template; of an answer: whether it failed
  uint64_t size = 0;
};

// Whole or false. Between calls of poll() there is time for an interrupt.
bool transfer(int socket, char* bytes, uint64_t size, bool sending, std::optional<Clock::time_point> end) {
  while (size > 0) {
    if (end) {
      pollfd wait = {socket, static_cast<short>(sending ? POLLOUT : POLLIN), 0};
      const int ready = poll(&wait, 1, 100);
      check_interrupted();
      if (Clock::now() > *end) return false;
      if (ready <= 0) continue;
    }
    const ssize_t n = sending ? send(socket, bytes, size, MSG_NOSIGNAL | (end ? MSG_DONTWAIT : 0))
                              : recv(socket, bytes, size, 0);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return false;
    bytes += n;
    size -= static_cast<uint64_t>(n);
  }
  return true;
}

bool send_message(int socket, uint64_t tag, std::string& text,
                  std::optional<Clock::time_point> end = std::nullopt) {
  Header header = {tag, text.size()};
  return transfer(socket, reinterpret_cast<char*>(&header), sizeof(header), true, end) &&
         transfer(socket, text.data(), text.size(), true, end);
}

// ----------------------------------------------------------------------------------------- the process

void set_limit(__rlimit_resource what, rlim_t value) {
  rlimit limit = {};
  if (getrlimit(what, &limit) != 0) return;
  limit.rlim_cur = std::min(value, limit.rlim_max);
  setrlimit(what, &limit);
}

// Memory: what this process has already, and kMaxMemory more.
void limit_resources() {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_DFL);
  set_limit(RLIMIT_CORE, 0);
  set_limit(RLIMIT_FSIZE, 0);
  set_limit(RLIMIT_STACK, kMaxStack);
  std::ifstream statm("/proc/self/statm");  // in pages; the sixth number: data and stack
  int64_t pages = 0;
  for (int i = 0; i < 6; i++) statm >> pages;
  if (statm) set_limit(RLIMIT_DATA, static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE) + kMaxMemory));
}

// The engine's messages draw a picture of the source; the sentence is at the end.
std::string sentence_of(std::string message) {
  if (const size_t error = message.rfind("\nError: "); error != std::string::npos)
    message.erase(0, error + 8);
  else if (const size_t end = message.find('\n', 1); end != std::string::npos)
    message.resize(end);
  return message;
}

void check_defined(const jinja::value& value) {
  if (const auto* undefined = dynamic_cast<const jinja::value_undefined_t*>(value.get());
      undefined && !undefined->hint.empty())
    throw std::runtime_error(fmt::format("\"{}\" is not defined", undefined->hint));
  if (dynamic_cast<const jinja::value_array_t*>(value.get()))
    for (const jinja::value& item : value->as_array()) check_defined(item);
}

class Program {
 public:
  explicit Program(const TemplateSource& source) : text_(source.text), strict_(source.strict) {
    if (strict_ && text_.ends_with('\n')) text_ += '\n';  // the engine takes one away
    program_.emplace(jinja::parse_from_tokens(jinja::lexer().tokenize(text_)));
  }
  std::string run(const std::string& globals) const {
    jinja::context context(text_);
    jinja::global_from_json(context, common_json::parse(globals), false);
    jinja::runtime runtime(context);
    const jinja::value_array result = runtime.execute(*program_);
    if (strict_) check_defined(result);
    return jinja::runtime::gather_string_parts(result)->as_string().str();
  }

 private:
  std::string text_;
  bool strict_;
  std::optional<jinja::program> program_;
};

// Calls work() and turns whatever it throws into the text of a failure.
template <typename Work>
bool attempt(std::string& text, Work work) {
  try {
    work();
    return true;
  } catch (const std::bad_alloc&) {
    text = "it needs too much memory";
  } catch (const std::exception& error) {
    text = sentence_of(error.what());
  } catch (...) {  // a "break" outside of a loop, say
    text = "it ends in the middle";
  }
  return false;
}

[[noreturn]] void serve(int socket, const std::vector<TemplateSource>& sources) {
  limit_resources();
  std::vector<std::optional<Program>> programs(sources.size());
  std::vector<std::string> damage(sources.size());
  for (size_t i = 0; i < sources.size(); i++)
    if (!attempt(damage[i], [&] { programs[i].emplace(sources[i]); }))
      damage[i] = "it is no valid template: " + damage[i];
  std::string text;
  for (Header header; transfer(socket, reinterpret_cast<char*>(&header), sizeof(header), false, {});) {
    const size_t i = header.tag;
    const bool ok = attempt(text, [&] {
      std::string globals(header.size, '\0');
      if (!transfer(socket, globals.data(), globals.size(), false, {})) _exit(0);
      text = programs[i] ? programs[i]->run(globals) : damage[i];
    });
    if (!send_message(socket, !ok || !programs[i], text)) break;
  }
  _exit(0);
}

}  // namespace

TemplateProcess::TemplateProcess(std::vector<TemplateSource> sources, std::string where,
                                 std::chrono::seconds max_time)
    : sources_(std::move(sources)), where_(std::move(where)), max_time_(max_time) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    fail_errno("cannot make a socket for", where_);
  process_ = fork();
  if (process_ == 0) {
    close(pair[0]);
    serve(pair[1], sources_);
  }
  socket_ = pair[0];
  close(pair[1]);
  if (process_ < 0) {
    close(socket_);
    fail_errno("cannot start a process for", where_);
  }
}

TemplateProcess::~TemplateProcess() { stop(); }

void TemplateProcess::stop() {
  if (process_ < 0) return;
  close(socket_);
  kill(process_, SIGKILL);
  while (waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
  }
  process_ = -1;
}

void TemplateProcess::fail_ended(const std::string& which, const std::string& where) {
  stop();
  fail(ErrorKind::input, "{}: {} takes more than {} seconds, more than {} MB of memory, or endless recursion",
       where, which, max_time_.count(), kMaxMemory >> 20);
}

std::string TemplateProcess::render(size_t index, const Json& globals, const std::string& place) {
  const std::string& name = sources_[index].name;
  const std::string& where = place.empty() ? where_ : place;
  if (process_ < 0) fail_ended(name, where);
  std::string text = globals.dump(-1, ' ', false, Json::error_handler_t::replace);
  const Clock::time_point end = Clock::now() + max_time_;
  Header header;
  if (!send_message(socket_, index, text, end) ||
      !transfer(socket_, reinterpret_cast<char*>(&header), sizeof(header), false, end))
    fail_ended(name, where);
  if (header.size > kMaxText) {
    stop();
    fail(ErrorKind::input, "{}: {} makes {} MB, more than the limit of {}", where, name, header.size >> 20,
         kMaxText >> 20);
  }
  text.resize(header.size);
  if (!transfer(socket_, text.data(), text.size(), false, end)) fail_ended(name, where);
  if (header.tag) fail(ErrorKind::input, "{}: {} fails: {}", where, name, text);
  return text;
}

}  // namespace moerge
