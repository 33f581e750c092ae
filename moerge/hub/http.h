#pragma once
// HTTP as the Hub speaks it: the token goes to the Hub's own origin and nowhere else, requests that can be
// are repeated as huggingface_hub repeats them, and a signal ends every wait.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/file.h"
#include "moerge/base/progress.h"
#include "moerge/hub/settings.h"

namespace moerge {

/// Bytes of a file as a request's body.
struct FilePart {
  const File* file;
  int64_t offset, bytes;
};

/// Where a redirect may lead.
enum class Redirects {
  anywhere,    // http(s); without the token outside the Hub's origin, and never from https to http
  own_origin,  // one that leaves the Hub's origin is the answer
};

struct HttpRequest {
  std::string method = "GET";
  std::string url;
  std::vector<std::string> headers = {};  // "Name: value"
  std::string body = {};
  std::optional<FilePart> file_body = {};  // instead of `body`
  bool with_token = true;                  // to the Hub's own origin; elsewhere it never is
  Redirects redirects = Redirects::anywhere;
  bool repeat = true;       // send() may send it again when no answer, or none that is final, came
  int silence_seconds = 0;  // how long the transfer may stand still; 0: as in the settings
  int64_t max_body = 32 << 20;
  /// From the thread that called: bytes of the body sent by this attempt so far.
  std::function<void(int64_t)> on_sent = {};
  /// Called from the same thread again and again, also while nothing arrives; may throw to end the transfer.
  std::function<void()> check = {};
};

struct HttpResponse {
  int status = 0;                                   // 0: no answer came
  std::string problem = {};                         // then, or when the answer broke off: why
  bool hopeless = false;                            // and trying again would end the same way
  std::string url = {};                             // that answered, after redirects
  std::map<std::string, std::string> headers = {};  // names in lower case
  std::string body = {};                            // what no sink took

  bool ok() const { return problem.empty() && status >= 200 && status < 300; }
  /// Empty when there is none.
  std::string header(const std::string& lower_case_name) const;
};

/// Takes a body while it arrives.
class BodySink {
 public:
  virtual ~BodySink() = default;
  /// Called once status and headers are there; false leaves the body to HttpResponse::body.
  virtual bool start(const HttpResponse& head) = 0;
  virtual void add(std::span<const std::byte> bytes) = 0;
};

/// Safe to use from any thread; connections stay open between requests.
class HttpClient {
 public:
  HttpClient(HubSettings settings, Reporter& reporter);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  const HubSettings& settings() const { return settings_; }
  Reporter& reporter() const { return reporter_; }

  /// One attempt, redirects followed. Throws interrupted, and what a sink or a file throws; an answer that
  /// is no success, or none, is a result.
  HttpResponse try_once(const HttpRequest& request, BodySink* sink = nullptr);

  /// The same, repeated after 408, 429, 500, 502, 503, 504 and broken connections: up to 5 times, 1 to 8 s
  /// apart or as long as the Hub asks. A server that cannot be connected to gets no second chance before any
  /// has answered: then it is the network or the name that is wrong.
  HttpResponse send(const HttpRequest& request);

  /// Waits before the repetition number `attempt` (from 0) of what was answered so; false when it must not
  /// or need not be repeated. `what` is for the message.
  bool wait_to_repeat(const HttpResponse& answer, int attempt, std::string_view what,
                      const std::function<void()>& check = {});

  /// Has this URL the scheme, host and port of the Hub?
  bool is_own(const std::string& url) const;

 private:
  struct Handle;
  struct Transfer;
  std::unique_ptr<Handle> take_handle();
  HttpResponse transfer(const HttpRequest& request, const std::string& url, BodySink* sink);
  void pass_on_warning(const HttpResponse& answer);

  HubSettings settings_;
  Reporter& reporter_;
  std::string origin_;
  std::atomic<bool> reached_{false};  // some server has answered something
  std::mutex guard_;
  std::vector<std::unique_ptr<Handle>> idle_;
  std::set<std::string> warned_;
};

/// Scheme, host and port of a URL, "https://huggingface.co:443"; empty for what is no http(s) URL.
std::string origin_of(const std::string& url);

/// What a "Location" means, seen from the URL that sent it; empty when it cannot be read.
std::string resolve_url(const std::string& base, const std::string& location);

/// Without what follows "?", which may be a signature: for messages.
std::string shown_url(const std::string& url);

/// Seconds that an answer asks to wait: "RateLimit: "api";r=0;t=55", or "Retry-After: 55".
std::optional<int> seconds_to_wait(const HttpResponse& answer);

}  // namespace moerge
