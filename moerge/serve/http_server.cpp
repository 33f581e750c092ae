#include "moerge/serve/http_server.h"

#include <common.h>
#include <cpp-httplib/httplib.h>
#include <fmt/format.h>
#include <llama.h>
#include <server-context.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "moerge/base/error.h"
#include "moerge/serve/chat_page.h"
#include "moerge/serve/http_access.h"
#include "moerge/serve/http_listener.h"
#include "moerge/serve/inference_state.h"
#include "moerge/serve/request_check.h"

namespace moerge {
namespace {

using httplib::Request;
using httplib::Response;
using Reply = httplib::Server::HandlerResponse;

constexpr const char* kJson = "application/json; charset=utf-8";
constexpr const char* kEvents = "text/event-stream";
constexpr size_t kShownPath = 100;  // bytes of a wrong path that are told back
constexpr const char* kLoading = "the model is being loaded, ask again in a moment";
constexpr const char* kStopping = "the server is shutting down";

constexpr std::chrono::seconds kFarewell{3};

// Requests of all clients together may hold so many of the largest.
constexpr int64_t kLargestRequests = 2;

// Tokenizers may join spaces and the like before they look for the longest tokens.
constexpr size_t kShrinking = 4;

std::string text_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

const char* type_of(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 503:
      return "unavailable_error";
    default:
      return status < 500 ? "invalid_request_error" : "server_error";
  }
}

Json error_json(int status, std::string_view message) {
  return {{"error", {{"code", status}, {"message", message}, {"type", type_of(status)}}}};
}

void refuse(Response& response, int status, std::string_view message) {
  response.status = status;
  response.set_content(text_of(error_json(status, message)), kJson);
}

void answer_json(Response& response, const Json& json) {
  response.status = 200;
  response.set_content(text_of(json), kJson);
}

std::string event(const Json& json) { return "data: " + text_of(json) + "\n\n"; }

// What a handler of llama.cpp is given and returns, for as long as the answer is being sent.
struct Exchange {
  std::function<bool()> stop;
  server_http_req request;
  server_http_res_ptr response;

  Exchange(std::function<bool()> should_stop, const Request& from)
      : stop(std::move(should_stop)), request{{}, {}, from.path, "", from.body, {}, stop} {
    for (const auto& [key, value] : from.params) request.params[key] = value;
  }
};

}  // namespace

struct HttpServer::Task {
  struct Route {
    std::string_view method, path;
    void (Task::*answer)(const Request&, Response&);
    server_http_context::handler_t server_routes::*handler;  // llama.cpp's, where it has the last word
    bool open;                                               // without a key, and before the model is there
  };
  static const Route kRoutes[];

  explicit Task(HttpOptions given);
  ~Task() { stop(); }

  void configure(Listener& listener);
  const Route* find(std::string_view method, std::string_view path) const;
  Reply admit(const Request& request, Response& response);
  Reply deny(const Request& request, Response& response, int status, std::string_view message) const;
  bool refused_browser(const Request& request, Response& response) const;
  void not_found(const Request& request, Response& response) const;
  void explain(const Request& request, Response& response) const;
  void run(const Route& route, const Request& request, Response& response);
  std::function<bool()> stop_for(const Request& request);
  void stop();

  void page(const Request& request, Response& response);
  void health(const Request& request, Response& response);
  void about(const Request& request, Response& response);
  void pass_on(const Request& request, Response& response);
  void chat(const Request& request, Response& response) { complete(RequestKind::chat, request, response); }
  void text(const Request& request, Response& response) { complete(RequestKind::text, request, response); }
  void parsed(const Request& request, Response& response);
  void templated(const Request& request, Response& response);
  void complete(RequestKind kind, const Request& request, Response& response);
  void routed(RequestKind kind, const Json& asked, const Request& request, Response& response);

  HttpOptions options;
  ListenerLimits limits;
  RequestLimits request_limits;
  bool loopback = true;
  std::vector<std::string> addresses;
  std::vector<std::unique_ptr<Listener>> listeners;
  std::vector<std::thread> threads;
  std::atomic<Inference*> inference = nullptr;
};

const HttpServer::Task::Route HttpServer::Task::kRoutes[] = {
    {"GET", "/", &Task::page, nullptr, true},
    {"GET", "/health", &Task::health, nullptr, true},
    {"GET", "/v1/health", &Task::health, nullptr, true},
    {"GET", "/v1/models", &Task::pass_on, &server_routes::get_models, false},
    {"GET", "/models", &Task::pass_on, &server_routes::get_models, false},
    {"GET", "/v1/moerge", &Task::about, nullptr, false},
    {"GET", "/props", &Task::pass_on, &server_routes::get_props, false},
    {"GET", "/metrics", &Task::pass_on, &server_routes::get_metrics, false},
    {"POST", "/v1/chat/completions", &Task::chat, &server_routes::post_chat_completions, false},
    {"POST", "/chat/completions", &Task::chat, &server_routes::post_chat_completions, false},
    {"POST", "/v1/completions", &Task::text, &server_routes::post_completions_oai, false},
    {"POST", "/completions", &Task::text, &server_routes::post_completions_oai, false},
    {"POST", "/apply-template", &Task::templated, &server_routes::post_apply_template, false},
    {"POST", "/tokenize", &Task::parsed, &server_routes::post_tokenize, false},
    {"POST", "/detokenize", &Task::parsed, &server_routes::post_detokenize, false},
};

// -------- listening

HttpServer::Task::Task(HttpOptions given) : options(std::move(given)) {
  limits.request = std::chrono::seconds(options.request_seconds);
  limits.max_bodies = kLargestRequests * options.max_body;
  limits.busy = text_of(error_json(503, fmt::format("all {} connections are in use", kMaxConnections)));
  const bool several = options.hosts.size() > 1;
  for (std::string& host : options.hosts) {
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    const int socket = bind_socket(host, options.port, several);
    options.port = socket_port(socket);  // the next hosts have the same
    listeners.push_back(std::make_unique<Listener>(socket, limits, [this](const CurrentRequest& request) {
      if (!options.log) return;
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - request.start;
      options.log(
          fmt::format("{} {} {} {:.3f} s", request.method, request.path, request.status, took.count()));
    }));
    loopback = loopback && is_loopback(host);
    addresses.push_back(fmt::format("http://{}:{}", url_host(host), options.port));
  }
  for (const auto& listener : listeners) {
    configure(*listener);
    threads.emplace_back([&listener = *listener] { listener.listen_after_bind(); });
    listener->wait_until_ready();
  }
}

void HttpServer::Task::configure(Listener& listener) {
  listener.set_default_headers(
      {{"Server", "moerge"}, {"X-Content-Type-Options", "nosniff"}, {"Cache-Control", "no-store"}});
  listener.set_keep_alive_timeout(limits.idle.count());
  listener.set_keep_alive_max_count(kMaxRequests);
  listener.set_payload_max_length(static_cast<size_t>(options.max_body));
  listener.set_pre_routing_handler(
      [this](const Request& request, Response& response) { return admit(request, response); });
  listener.set_post_routing_handler([](const Request&, Response& response) {
    CurrentRequest& current = current_request();
    if (current.path.empty()) current.method = "?", current.path = "(unknown)";
    current.status = response.status;
  });
  listener.set_error_handler(
      [this](const Request& request, Response& response) { explain(request, response); });
  listener.set_exception_handler([](const Request&, Response& response, const std::exception_ptr& problem) {
    try {
      std::rethrow_exception(problem);
    } catch (const std::bad_alloc&) {
      refuse(response, 503, "the server has no memory left for this request");
    } catch (const std::exception& error) {
      refuse(response, 500, error.what());
    }
  });
  for (const Route& route : kRoutes) {
    if (route.path == "/" && !options.page) continue;
    const auto answer = [this, &route](const Request& request, Response& response) {
      run(route, request, response);
    };
    if (route.method == "GET") listener.Get(std::string(route.path), answer);
    if (route.method == "POST") listener.Post(std::string(route.path), answer);
  }
}

void HttpServer::Task::stop() {
  limits.stopping = true;
  // A stopped listener cuts streams off: first each client is told.
  const auto until = std::chrono::steady_clock::now() + kFarewell;
  while (limits.connections > 0 && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  limits.cut_off = true;
  for (const auto& listener : listeners) listener->stop();
  for (std::thread& thread : threads) thread.join();
  threads.clear();
  inference = nullptr;
}

// -------- before a request's body is read

const HttpServer::Task::Route* HttpServer::Task::find(std::string_view method, std::string_view path) const {
  for (const Route& route : kRoutes)
    if (route.path == path && (method.empty() || route.method == method) && (path != "/" || options.page))
      return &route;
  return nullptr;
}

Reply HttpServer::Task::deny(const Request& request, Response& response, int status,
                             std::string_view message) const {
  refuse(response, status, message);
  // What it was going to send is not waited for.
  if (request.has_header("Content-Length") || request.has_header("Transfer-Encoding"))
    response.set_header("Connection", "close");
  return Reply::Handled;
}

// A page of another site must not talk to this server behind its user's back: not by a name that it lets
// point here (Host), nor by a request whose answer it cannot read (Origin).
bool HttpServer::Task::refused_browser(const Request& request, Response& response) const {
  const std::string host = request.get_header_value("Host"), origin = request.get_header_value("Origin");
  if (loopback && !host.empty() && !is_loopback(host_name(host))) {
    deny(request, response, 403,
         "the Host header names another computer; ask for localhost or 127.0.0.1 (or start the server with "
         "--host and the name)");
    return true;
  }
  if (origin.empty()) return false;
  if (!options.cors_origin.empty() && (options.cors_origin == "*" || options.cors_origin == origin)) {
    response.set_header("Access-Control-Allow-Origin", options.cors_origin);
    response.set_header("Vary", "Origin");
    return false;
  }
  if (request.method == "GET" || request.method == "HEAD" || same_origin(origin, host)) return false;
  deny(request, response, 403,
       "pages of other sites may not use this server; --cors-origin ORIGIN lets one, as its Origin header "
       "spells it");
  return true;
}

void HttpServer::Task::not_found(const Request& request, Response& response) const {
  std::string paths;
  for (const Route& route : kRoutes)
    if (find(route.method, route.path))
      paths += fmt::format("{}{} {}", paths.empty() ? "" : ", ", route.method, route.path);
  deny(request, response, 404,
       fmt::format("there is no {} here; there is {}", request.path.substr(0, kShownPath), paths));
}

Reply HttpServer::Task::admit(const Request& request, Response& response) {
  CurrentRequest& current = current_request();
  const Route* any = find("", request.path);
  current.method = request.method;
  current.path = any ? request.path : "(unknown)";
  if (refused_browser(request, response)) return Reply::Handled;
  if (!any) return not_found(request, response), Reply::Handled;
  if (request.method == "OPTIONS" && response.has_header("Access-Control-Allow-Origin")) {
    response.set_header("Access-Control-Allow-Methods", "GET, POST");
    response.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Api-Key");
    response.set_header("Access-Control-Max-Age", "600");
    response.status = 204;
    return Reply::Handled;
  }
  const Route* route = find(request.method == "HEAD" ? "GET" : request.method, request.path);
  if (!route) {
    response.set_header("Allow", std::string(any->method));
    return deny(request, response, 405,
                fmt::format("{} is asked with {}, not {}", any->path, any->method, request.method));
  }
  if (!route->open && !options.keys.empty()) {
    const std::string given = request.has_header("Authorization") ? request.get_header_value("Authorization")
                                                                  : request.get_header_value("X-Api-Key");
    if (!key_fits(given, options.keys)) {
      response.set_header("WWW-Authenticate", "Bearer");
      return deny(request, response, 401,
                  given.empty() ? "this server wants a key: \"Authorization: Bearer KEY\""
                                : "this is not a key of this server");
    }
  }
  if (limits.stopping) return deny(request, response, 503, kStopping);
  if (!route->open && !inference) {
    response.set_header("Retry-After", "1");
    return deny(request, response, 503, kLoading);
  }
  if (request.is_multipart_form_data())
    return deny(request, response, 415, "a JSON document is expected (Content-Type: application/json)");
  const bool chunked = request.has_header("Transfer-Encoding");
  const auto length =
      static_cast<int64_t>(std::min<uint64_t>(request.get_header_value_u64("Content-Length"), INT64_MAX));
  if (length > options.max_body)
    return deny(
        request, response, 413,
        fmt::format("a request may have {} bytes, this one has {} (--max-body)", options.max_body, length));
  if (!current.reserve(chunked ? options.max_body : length)) {
    response.set_header("Retry-After", "1");
    return deny(request, response, 503, "too many large requests at once, ask again in a moment");
  }
  return Reply::Unhandled;
}

// What cpp-httplib refuses by itself gets a body as well.
void HttpServer::Task::explain(const Request& request, Response& response) const {
  if (!response.body.empty()) return;
  static const std::map<int, const char*> kReasons = {
      {400, "this is no HTTP request that can be read, or it broke off"},
      {404, "there is nothing here"},
      {413, "the request is too large"},
      {414, "the path is too long"},
      {415, "a JSON document without compression is expected"},
      {416, "parts of an answer cannot be had"},
      {431, "the request's headers are too large"}};
  constexpr std::string_view kMethods[] = {"GET",     "HEAD",    "POST",  "PUT",   "DELETE",
                                           "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI"};
  int status = response.status;
  if (status == 400 && !request.method.empty() && std::ranges::count(kMethods, request.method) == 0 &&
      request.path.empty())
    return refuse(response, 405, "this is no method of HTTP that is known here");
  if (status == 413) response.set_header("Connection", "close");
  if (status == 413 &&
      request.get_header_value("Content-Type").starts_with("application/x-www-form-urlencoded"))
    return refuse(response, 413, "the request is too large for a form: send Content-Type: application/json");
  const auto reason = kReasons.find(status);
  refuse(response, status, reason == kReasons.end() ? "the request failed" : reason->second);
}

// -------- answers

// Remembers: llama.cpp asks again whether it was really told to stop.
std::function<bool()> HttpServer::Task::stop_for(const Request& request) {
  return [closed = request.is_connection_closed, this, stopped = false]() mutable {
    return stopped = stopped || limits.stopping || closed();
  };
}

void HttpServer::Task::run(const Route& route, const Request& request, Response& response) {
  current_request().keep(static_cast<int64_t>(request.body.size()));
  try {
    (this->*route.answer)(request, response);
  } catch (const Error& error) {
    refuse(response, 400, error.message());
  }
}

void HttpServer::Task::page(const Request&, Response& response) {
  response.status = 200;
  response.set_header("Content-Security-Policy", std::string(chat_page_policy()));
  response.set_header("Referrer-Policy", "no-referrer");
  response.set_header("X-Frame-Options", "DENY");
  response.set_content(std::string(chat_page()), "text/html; charset=utf-8");
}

void HttpServer::Task::health(const Request&, Response& response) {
  if (inference) return answer_json(response, {{"status", "ok"}});
  response.set_header("Retry-After", "1");
  Json body = error_json(503, kLoading);
  body["status"] = "loading";
  response.status = 503;
  response.set_content(text_of(body), kJson);
}

void HttpServer::Task::about(const Request&, Response& response) {
  const InferenceInfo& info = inference.load()->info();
  const common_params& params = inference.load()->state().params;
  Json body = {{"name", info.name},
               {"context", info.context},
               {"layers", info.layers},
               {"experts", info.experts},
               {"experts_per_token", info.experts_per_token},
               {"chat_template", info.has_template},
               {"template_note", info.template_note},
               {"show_routing", options.show_routing && info.experts > 0},
               {"sampling",
                {{"temperature", params.sampling.temp},
                 {"top_k", params.sampling.top_k},
                 {"top_p", params.sampling.top_p},
                 {"min_p", params.sampling.min_p},
                 {"max_tokens", params.n_predict},
                 {"repeat_penalty", params.sampling.penalty_repeat}}}};
  if (!info.expert_names.empty()) body["expert_names"] = info.expert_names;
  answer_json(response, body);
}

void HttpServer::Task::parsed(const Request& request, Response& response) {
  check_tokens_request(parse_request(request.body));
  pass_on(request, response);
}

void HttpServer::Task::templated(const Request& request, Response& response) {
  check_request(parse_request(request.body), RequestKind::chat, request_limits);
  pass_on(request, response);
}

void HttpServer::Task::complete(RequestKind kind, const Request& request, Response& response) {
  const Json asked = parse_request(request.body);
  check_request(asked, kind, request_limits);
  if (asked.value("routing", Json()) == Json(true)) return routed(kind, asked, request, response);
  pass_on(request, response);
}

void HttpServer::Task::pass_on(const Request& request, Response& response) {
  const Route& route = *find(request.method == "HEAD" ? "GET" : request.method, request.path);
  const auto exchange = std::make_shared<Exchange>(stop_for(request), request);
  try {
    exchange->response = (inference.load()->state().routes.get()->*route.handler)(exchange->request);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::runtime_error& error) {  // an answer that the template's parser does not understand
    return refuse(response, 500, error.what());
  } catch (const std::exception& error) {  // found in the request
    return refuse(response, 400, error.what());
  }
  server_http_res& result = *exchange->response;
  if (!result.is_stream()) {
    if (result.data.empty() && exchange->stop()) return refuse(response, 503, kStopping);
    response.status = result.status;
    response.set_content(result.data, result.content_type);
    result.on_complete();
    return;
  }
  response.status = result.status;
  response.set_chunked_content_provider(
      result.content_type,
      [exchange, this](size_t, httplib::DataSink& sink) {
        std::string chunk;
        const bool more = exchange->response->next(chunk);
        if (!more && limits.stopping) chunk += event(error_json(503, kStopping));
        if (!chunk.empty() && !sink.write(chunk.data(), chunk.size())) return false;
        if (!more) sink.done();
        return true;
      },
      [exchange](bool) { exchange->response->on_complete(); });
}

void HttpServer::Task::routed(RequestKind kind, const Json& asked, const Request& request,
                              Response& response) {
  if (inference.load()->info().experts == 0)
    return refuse(response, 400, "\"routing\": this model has no experts between which tokens are routed");
  struct Stream {
    Stream(Inference& model, RequestKind what, const Json& wanted, std::function<bool()> stop)
        : answer(model, what, wanted, std::move(stop)), piece(answer.next()) {}
    Answer answer;
    std::optional<AnswerPiece> piece;
  };
  const auto stream = std::make_shared<Stream>(*inference.load(), kind, asked, stop_for(request));
  if (const std::optional<Json>& error = stream->answer.error()) {
    response.status = error->value("code", 500);
    return response.set_content(text_of({{"error", *error}}), kJson);
  }
  if (!stream->piece) return refuse(response, 503, kStopping);
  response.status = 200;
  if (asked.value("stream", Json()) != Json(true))
    return response.set_content(text_of(stream->piece->body), kJson);
  response.set_chunked_content_provider(kEvents, [stream, this](size_t, httplib::DataSink& sink) {
    std::string chunk;
    if (stream->piece) {
      const Json& body = stream->piece->body;
      if (body.is_array())
        for (const Json& part : body) chunk += event(part);
      else if (!body.is_null())
        chunk = event(body);
      stream->piece = stream->answer.next();
    } else {
      sink.done();
      return true;
    }
    if (!stream->piece) {
      if (const std::optional<Json>& error = stream->answer.error())
        chunk += event({{"error", *error}});
      else
        chunk += limits.stopping ? event(error_json(503, kStopping)) : "data: [DONE]\n\n";
    }
    return chunk.empty() || sink.write(chunk.data(), chunk.size());
  });
}

// -------- the class

HttpServer::HttpServer(HttpOptions options) : task_(std::make_unique<Task>(std::move(options))) {}

HttpServer::~HttpServer() = default;

std::vector<std::string> HttpServer::addresses() const { return task_->addresses; }

bool HttpServer::loopback_only() const { return task_->loopback; }

void HttpServer::attach(Inference& inference) {
  Inference::State& state = inference.state();
  state.params.endpoint_metrics = true;
  size_t longest = 1;
  for (llama_token token = 0; token < llama_vocab_n_tokens(state.vocab); token++)
    longest = std::max(longest, common_token_to_piece(state.vocab, token).size());
  task_->request_limits = {
      .parallel = state.params.n_parallel,
      .longest_text = kShrinking * longest * static_cast<size_t>(inference.info().context),
      .context = inference.info().context};
  task_->inference = &inference;
}

void HttpServer::stop() { task_->stop(); }

}  // namespace moerge
