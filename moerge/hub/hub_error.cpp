// The sentences for what the Hub refuses.

#include <fmt/format.h>

#include <vector>

#include "moerge/base/error.h"
#include "moerge/hub/hub.h"

namespace moerge {
namespace {

constexpr size_t kLongestMessage = 600;

// The strings in "error" (one or several) and the "message" of each in "errors" and "warnings".
std::vector<std::string> body_messages(const std::string& body) {
  std::vector<std::string> out;
  Json json;
  try {
    json = parse_json(body, "");
  } catch (const Error&) {
    return out;
  }
  if (!json.is_object()) return out;
  const auto add = [&](const Json& value) {
    if (value.is_string()) out.push_back(value.get<std::string>());
    if (!value.is_object()) return;
    if (const auto message = value.find("message"); message != value.end() && message->is_string())
      out.push_back(message->get<std::string>());
  };
  for (const char* key : {"error", "message", "errors", "warnings"}) {
    const auto found = json.find(key);
    if (found == json.end()) continue;
    if (!found->is_array())
      add(*found);
    else
      for (const Json& value : *found) add(value);
  }
  return out;
}

std::string token_hint(const HubSettings& settings) {
  return settings.token.empty()
             ? std::string("no token was sent; set HF_TOKEN, or log in with \"hf auth login\"")
             : fmt::format("the token in {} does not give access", settings.token_source);
}

}  // namespace

std::string hub_message(const HttpResponse& answer) {
  std::string out = answer.header("x-error-message");
  if (out.empty()) out = fmt::format("{}", fmt::join(body_messages(answer.body), "; "));
  if (out.size() > kLongestMessage) out = out.substr(0, kLongestMessage) + " ...";
  return printable(out);
}

void fail_hub(const HttpResponse& answer, const HubSubject& subject, const HubSettings& settings) {
  const HubName& name = subject.name;
  const std::string said = hub_message(answer), code = answer.header("x-error-code");
  const std::string what = name.repository.empty() ? settings.endpoint
                           : subject.path.empty()
                               ? fmt::format("\"{}\"", name.repository)
                               : fmt::format("\"{}\" of \"{}\"", subject.path, name.repository);
  const std::string quoted = said.empty() ? "" : fmt::format(" (the Hub says: {})", said);
  if (!answer.problem.empty() && answer.status == 0)
    fail(ErrorKind::io, "{}: {} did not answer: {}; is the network up, and HF_ENDPOINT right?", what,
         shown_url(answer.url), printable(answer.problem));
  if (!answer.problem.empty())
    fail(ErrorKind::io, "{}: the answer of {} cannot be used: {}", what, shown_url(answer.url),
         printable(answer.problem));
  // Where the Hub has the bytes, its rules do not apply.
  if (origin_of(answer.url) != origin_of(settings.endpoint))
    fail(ErrorKind::io, "{}: {}, where the Hub sends us for it, answered HTTP {}{}; try again later", what,
         shown_url(answer.url), answer.status, quoted);
  if (said == "Invalid credentials in Authorization header")
    fail(ErrorKind::config,
         "{}: the Hub does not know the token in {}: it is mistyped, revoked or expired; make one at "
         "{}/settings/tokens",
         what, settings.token_source.empty() ? "the request" : settings.token_source, settings.endpoint);
  if (said == "Access to this resource is disabled.")
    fail(ErrorKind::config, "{}: the Hub has disabled access to it", what);
  if (code == "GatedRepo")
    fail(ErrorKind::config, "{}: the {} is gated: accept its licence at {} {}{}", what, kind_word(name.kind),
         repository_page(settings, name),
         settings.token.empty() ? "and give your token in HF_TOKEN (or log in with \"hf auth login\")"
                                : fmt::format("with the account whose token is in {}", settings.token_source),
         quoted);
  if (code == "RevisionNotFound")
    fail(ErrorKind::config,
         "{}: there is no branch, tag or commit \"{}\"; its revisions are listed at {}/tree/main", what,
         name.revision, repository_page(settings, name));
  if (code == "EntryNotFound")
    fail(ErrorKind::config, "{}: there is no such file at revision \"{}\"", what, name.revision);
  const bool hidden = answer.status == 401 && said != "Invalid username or password.";
  if (code == "RepoNotFound" || hidden || (answer.status == 404 && subject.path.empty()))
    fail(ErrorKind::config, "{}: there is no such {} at {}, or it is private and {}", what,
         kind_word(name.kind), settings.endpoint, token_hint(settings));
  if (answer.status == 401)
    fail(ErrorKind::config, "{}: the Hub wants to know who asks: {}", what, token_hint(settings));
  if (answer.status == 403)
    fail(ErrorKind::config, "{}: the Hub refuses{}: {}", what, quoted,
         settings.token.empty() ? token_hint(settings)
                                : fmt::format("the token in {} may lack the right (see {}/settings/tokens)",
                                              settings.token_source, settings.endpoint));
  if (answer.status == 429)
    fail(
        ErrorKind::io, "{}: too many requests to the Hub; try again in {}{}", what,
        seconds_to_wait(answer) ? fmt::format("{} s", *seconds_to_wait(answer)) : std::string("some minutes"),
        settings.token.empty() ? " (with a token more are allowed)" : "");
  const std::string id = answer.header("x-request-id");
  if (answer.status >= 500)
    fail(ErrorKind::io, "{}: the Hub has a fault of its own (HTTP {}){}; try again later{}", what,
         answer.status, quoted, id.empty() ? "" : fmt::format(" (request {})", printable(id)));
  fail(ErrorKind::io, "{}: {} answered HTTP {}{}{}", what, shown_url(answer.url), answer.status, quoted,
       id.empty() ? "" : fmt::format(" (request {})", printable(id)));
}

}  // namespace moerge
