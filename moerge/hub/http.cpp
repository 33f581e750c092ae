#include "moerge/hub/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <exception>
#include <thread>

#include "moerge/base/error.h"
#include "moerge/base/lower_case.h"
#include "moerge/base/interrupt.h"

namespace moerge {
namespace {

constexpr int kMaxRedirects = 20, kMaxRepeats = 5, kLongestWait = 3600;
constexpr size_t kMaxHeaders = 1000;
constexpr long kBuffer = 512 * 1024;

void set_up_curl() {
  static const CURLcode result = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (result != CURLE_OK) fail(ErrorKind::io, "libcurl cannot be set up: {}", curl_easy_strerror(result));
}

std::string url_part(CURLU* url, CURLUPart part, unsigned int flags) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK || !text) return "";
  std::string out = text;
  curl_free(text);
  return out;
}

struct CloseUrl {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using Url = std::unique_ptr<CURLU, CloseUrl>;

Url parse_url(const std::string& text) {
  Url url(curl_url());
  if (!url || text.find('\0') != std::string::npos ||
      curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK)
    return {};
  return url;
}

bool is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

bool is_unreachable(CURLcode result) {
  constexpr std::array kUnreachable = {CURLE_UNSUPPORTED_PROTOCOL,     CURLE_URL_MALFORMAT,
                                       CURLE_COULDNT_RESOLVE_PROXY,    CURLE_COULDNT_RESOLVE_HOST,
                                       CURLE_COULDNT_CONNECT,          CURLE_SSL_CONNECT_ERROR,
                                       CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_CACERT_BADFILE};
  return std::ranges::find(kUnreachable, result) != kUnreachable.end();
}

bool is_transient(int status) {
  constexpr std::array kTransient = {408, 429, 500, 502, 503, 504};
  return std::ranges::find(kTransient, status) != kTransient.end();
}

std::string trimmed(std::string_view text) {
  constexpr const char* kSpace = " \t\r\n";
  const size_t start = text.find_first_not_of(kSpace);
  if (start == std::string_view::npos) return "";
  return std::string(text.substr(start, text.find_last_not_of(kSpace) - start + 1));
}

std::optional<int> leading_int(std::string_view text) {
  int value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc() || value < 0)
    return {};
  return value;
}

}  // namespace

std::string shown_url(const std::string& url) { return url.substr(0, url.find_first_of("?#")); }

struct HttpClient::Handle {
  CURL* curl = curl_easy_init();
  Handle() {
    if (!curl) fail(ErrorKind::io, "libcurl cannot be set up");
  }
  ~Handle() { curl_easy_cleanup(curl); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
};

// What libcurl's callbacks need. An exception in one of them is kept and thrown when libcurl has returned.
struct HttpClient::Transfer {
  const HttpRequest& request;
  BodySink* sink;
  CURL* curl;
  HttpResponse response = {};
  std::exception_ptr thrown = {};
  bool started = false, to_sink = false, too_large = false;
  int64_t sent = 0;

  template <typename Work>
  size_t guarded(size_t failed, const Work& work) {
    try {
      return work();
    } catch (...) {
      thrown = std::current_exception();
      return failed;
    }
  }

  static size_t on_header(char* data, size_t one, size_t count, void* self) {
    auto& t = *static_cast<Transfer*>(self);
    return t.guarded(0, [&] {
      const std::string_view line(data, one * count);
      if (line.starts_with("HTTP/")) t.response.headers.clear();  // a "100 Continue" came before
      const size_t colon = line.find(':');
      if (colon != std::string_view::npos && t.response.headers.size() < kMaxHeaders)
        t.response.headers[lower_case(line.substr(0, colon))] = trimmed(line.substr(colon + 1));
      return one * count;
    });
  }

  void start() {
    started = true;
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    response.status = static_cast<int>(status);
    to_sink = sink && !is_redirect(response.status) && sink->start(response);
  }

  static size_t on_body(char* data, size_t one, size_t count, void* self) {
    auto& t = *static_cast<Transfer*>(self);
    return t.guarded(CURL_WRITEFUNC_ERROR, [&]() -> size_t {
      const size_t bytes = one * count;
      if (!t.started) t.start();
      if (t.to_sink) {
        t.sink->add(std::as_bytes(std::span(data, bytes)));
      } else if (std::ssize(t.response.body) + static_cast<int64_t>(bytes) > t.request.max_body) {
        t.too_large = true;
        return CURL_WRITEFUNC_ERROR;
      } else {
        t.response.body.append(data, bytes);
      }
      return bytes;
    });
  }

  static size_t on_read(char* data, size_t one, size_t count, void* self) {
    auto& t = *static_cast<Transfer*>(self);
    return t.guarded(CURL_READFUNC_ABORT, [&] {
      const FilePart& part = *t.request.file_body;
      const auto bytes = std::min(static_cast<int64_t>(one * count), part.bytes - t.sent);
      part.file->read_at(part.offset + t.sent,
                         std::as_writable_bytes(std::span(data, static_cast<size_t>(bytes))));
      t.sent += bytes;
      if (t.request.on_sent) t.request.on_sent(t.sent);
      return static_cast<size_t>(bytes);
    });
  }

  static int on_seek(void* self, curl_off_t offset, int origin) {
    auto& t = *static_cast<Transfer*>(self);
    if (origin != SEEK_SET || offset < 0 || offset > t.request.file_body->bytes) return CURL_SEEKFUNC_FAIL;
    t.sent = offset;
    return CURL_SEEKFUNC_OK;
  }

  static int on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    auto& t = *static_cast<Transfer*>(self);
    return static_cast<int>(t.guarded(1, [&] {
      check_interrupted();
      if (t.request.check) t.request.check();
      return size_t{0};
    }));
  }
};

HttpClient::HttpClient(HubSettings settings, Reporter& reporter)
    : settings_(std::move(settings)), reporter_(reporter), origin_(origin_of(settings_.endpoint)) {
  set_up_curl();
  if (origin_.empty()) fail(ErrorKind::config, "\"{}\" is no URL of a Hub", settings_.endpoint);
}

HttpClient::~HttpClient() = default;

std::string HttpResponse::header(const std::string& lower_case_name) const {
  const auto found = headers.find(lower_case_name);
  return found == headers.end() ? "" : found->second;
}

std::string origin_of(const std::string& url) {
  const Url parsed = parse_url(url);
  if (!parsed) return "";
  const std::string scheme = url_part(parsed.get(), CURLUPART_SCHEME, 0);
  if (scheme != "http" && scheme != "https") return "";
  return fmt::format("{}://{}:{}", scheme, lower_case(url_part(parsed.get(), CURLUPART_HOST, 0)),
                     url_part(parsed.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT));
}

std::string resolve_url(const std::string& base, const std::string& location) {
  const Url parsed = parse_url(base);
  if (!parsed || location.empty() || location.find('\0') != std::string::npos ||
      curl_url_set(parsed.get(), CURLUPART_URL, location.c_str(), 0) != CURLUE_OK)
    return "";
  return url_part(parsed.get(), CURLUPART_URL, 0);
}

bool HttpClient::is_own(const std::string& url) const { return origin_of(url) == origin_; }

std::unique_ptr<HttpClient::Handle> HttpClient::take_handle() {
  const std::lock_guard lock(guard_);
  if (idle_.empty()) return std::make_unique<Handle>();
  std::unique_ptr<Handle> handle = std::move(idle_.back());
  idle_.pop_back();
  curl_easy_reset(handle->curl);  // connections stay
  return handle;
}

HttpResponse HttpClient::transfer(const HttpRequest& request, const std::string& url, BodySink* sink) {
  std::unique_ptr<Handle> handle = take_handle();
  CURL* curl = handle->curl;
  Transfer t = {.request = request, .sink = sink, .curl = curl};
  std::array<char, CURL_ERROR_SIZE> error = {};
  curl_slist* headers = nullptr;
  const auto add_header = [&](const std::string& line) {
    headers = curl_slist_append(headers, line.c_str());
  };
  for (const std::string& line : request.headers) add_header(line);
  if (request.with_token && !settings_.token.empty() && is_own(url))
    add_header("Authorization: Bearer " + settings_.token);
  add_header("Expect:");  // no wait for a "100 Continue"
  const std::unique_ptr<curl_slist, void (*)(curl_slist*)> headers_owner(headers, curl_slist_free_all);

  const int silence = request.silence_seconds > 0 ? request.silence_seconds : settings_.silence_seconds;
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, settings_.user_agent.c_str());
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error.data());
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, static_cast<long>(settings_.connect_seconds));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, static_cast<long>(silence));
  curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, kBuffer);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, Transfer::on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &t);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, Transfer::on_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &t);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, Transfer::on_progress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &t);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  // On a connection that was open libcurl would itself send again what got no answer.
  if (!request.repeat) curl_easy_setopt(curl, CURLOPT_FRESH_CONNECT, 1L);
  if (request.file_body) {
    curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(curl, CURLOPT_UPLOAD_BUFFERSIZE, kBuffer);
    curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.file_body->bytes));
    curl_easy_setopt(curl, CURLOPT_READFUNCTION, Transfer::on_read);
    curl_easy_setopt(curl, CURLOPT_READDATA, &t);
    curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, Transfer::on_seek);
    curl_easy_setopt(curl, CURLOPT_SEEKDATA, &t);
  } else if (request.method == "HEAD") {
    curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
  } else if (request.method != "GET") {
    curl_easy_setopt(curl, CURLOPT_POST, 1L);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request.body.data());
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
  }
  if (request.method != "GET" && request.method != "HEAD")
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request.method.c_str());

  const CURLcode result = curl_easy_perform(curl);
  if (t.thrown) std::rethrow_exception(t.thrown);
  check_interrupted();
  if (result == CURLE_OK && !t.started) t.start();
  t.response.url = url;
  long answered = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answered);
  if (answered > 0) reached_ = true;
  if (result != CURLE_OK) {
    t.response.status = static_cast<int>(answered);
    t.response.hopeless = t.too_large || (is_unreachable(result) && !reached_);
    t.response.problem = t.too_large
                             ? fmt::format("the answer is larger than {}", human_bytes(request.max_body))
                         : error[0] ? std::string(error.data())
                                    : std::string(curl_easy_strerror(result));
  }
  const std::lock_guard lock(guard_);
  idle_.push_back(std::move(handle));
  return std::move(t.response);
}

HttpResponse HttpClient::try_once(const HttpRequest& request, BodySink* sink) {
  std::string url = request.url;
  HttpRequest current = request;
  for (int hops = 0;; hops++) {
    HttpResponse answer = transfer(current, url, sink);
    if (!answer.problem.empty() || !is_redirect(answer.status)) {
      pass_on_warning(answer);
      return answer;
    }
    const std::string next = resolve_url(url, answer.header("location"));
    const bool leaves = !is_own(next);
    const auto refuse = [&](const std::string& why) {
      answer.problem = fmt::format("redirected to \"{}\", {}", shown_url(answer.header("location")), why);
      return answer;
    };
    if (origin_of(next).empty()) return refuse("which is no web address");
    if (hops >= kMaxRedirects) return refuse("after too many redirects");
    if (url.starts_with("https://") && !next.starts_with("https://")) return refuse("which is not encrypted");
    if (request.redirects == Redirects::own_origin && (leaves || !is_own(url))) return answer;
    // What changes something is sent again only to the Hub itself, and only where the answer says so.
    if (request.method != "GET" && request.method != "HEAD" &&
        (leaves || (answer.status != 307 && answer.status != 308)))
      return refuse("where this request must not follow");
    url = next;
  }
}

bool HttpClient::wait_to_repeat(const HttpResponse& answer, int attempt, std::string_view what,
                                const std::function<void()>& check) {
  const bool broken = !answer.problem.empty() && !is_redirect(answer.status);
  if (attempt >= kMaxRepeats || answer.hopeless || (!broken && !is_transient(answer.status))) return false;
  const std::optional<int> asked = broken ? std::nullopt : seconds_to_wait(answer);
  if (asked && *asked > kLongestWait) return false;
  const int seconds = asked ? *asked + 1 : std::min(1 << attempt, 8);
  const std::string text =
      fmt::format("{}: {}; trying again in {} s", what,
                  broken ? answer.problem
                         : fmt::format("the Hub answered {}{}", answer.status,
                                       answer.status == 429 ? " (too many requests)" : ""),
                  seconds);
  // A short hiccup is nobody's business.
  if (seconds > 2)
    reporter_.info(text);
  else
    reporter_.detail(text);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  while (std::chrono::steady_clock::now() < end) {
    check_interrupted();
    if (check) check();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return true;
}

HttpResponse HttpClient::send(const HttpRequest& request) {
  for (int attempt = 0;; attempt++) {
    HttpResponse answer = try_once(request);
    if (answer.ok() || !request.repeat ||
        !wait_to_repeat(answer, attempt, shown_url(request.url), request.check))
      return answer;
  }
}

void HttpClient::pass_on_warning(const HttpResponse& answer) {
  const std::string warning = answer.header("x-hf-warning");
  if (warning.empty() || !is_own(answer.url)) return;
  {
    const std::lock_guard lock(guard_);
    if (!warned_.insert(warning).second) return;
  }
  const size_t divide = warning.find(';');
  reporter_.warning("the Hub says: " +
                    (divide == std::string::npos ? warning : trimmed(warning.substr(divide + 1))));
}

std::optional<int> seconds_to_wait(const HttpResponse& answer) {
  if (const std::string limit = answer.header("ratelimit"); !limit.empty()) {
    std::optional<int> rest, seconds;
    for (size_t at = 0; at < limit.size(); at++) {
      const size_t end = std::min(limit.find(';', at), limit.size());
      const std::string part = trimmed(std::string_view(limit).substr(at, end - at));
      if (part.starts_with("r=")) rest = leading_int(std::string_view(part).substr(2));
      if (part.starts_with("t=")) seconds = leading_int(std::string_view(part).substr(2));
      at = end;
    }
    if (rest == 0 && seconds) return seconds;
  }
  return leading_int(answer.header("retry-after"));
}

}  // namespace moerge
