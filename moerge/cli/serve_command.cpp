// moerge serve MODEL: arguments, and the order in which things happen.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/interrupt.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/inference_flags.h"
#include "moerge/cli/open_inference.h"
#include "moerge/serve/http_server.h"

namespace moerge {
namespace {

constexpr int64_t kMaxKeyFile = 1 << 20;
constexpr size_t kMaxKey = 1024;
constexpr std::chrono::milliseconds kPoll{50};

constexpr const char* kExamples = R"(
Once it says "moerge serves ...":

  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}'

  from openai import OpenAI          # pip install openai
  client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="KEY, or anything without --api-key")
  answer = client.chat.completions.create(
      model="any", messages=[{"role": "user", "content": "Hello"}], stream=True,
      extra_body={"routing": True})  # of a mixture: which experts have each token
  for chunk in answer:
      print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="")

What comes after a lone -- goes to llama.cpp's server: moerge serve MODEL -- --flash-attn on
The first Ctrl-C ends running answers and then the server, the second ends it at once.
docs/serve.md tells the rest.)";

struct Arguments {
  std::string model, key_file, max_body = "16M";
  std::vector<std::string> hosts;
  HttpOptions http;
  int parallel = 4;
  bool no_page = false, requests = false, quiet = false;
};

void add_flags(CLI::App& app, Arguments& a, InferenceFlags& flags) {
  app.add_option("MODEL", a.model, kModelHelp)->required();
  const std::string where = "Where it listens";
  app.add_option("--host", a.hosts,
                 "names or addresses of this computer, as a list: 127.0.0.1 is for programs on this computer "
                 "alone, 0.0.0.0 for every network it is in (127.0.0.1)")
      ->delimiter(',')
      ->group(where);
  app.add_option("--port", a.http.port, "0: the system chooses one, which is printed (8080)")
      ->check(CLI::Range(0, 65535))
      ->group(where);
  const std::string who = "Who is served";
  app.add_option("--api-key", a.http.keys,
                 "a key that clients have to send, or several; other users of this computer can see it in "
                 "the list of processes, so better MOERGE_API_KEY in the environment or --api-key-file")
      ->allow_extra_args(false)
      ->group(who);
  app.add_option("--api-key-file", a.key_file, "a file with a key in each line")->group(who);
  app.add_option("--cors-origin", a.http.cors_origin,
                 "a site whose pages may use the server, as https://example.org; *: every site (none)")
      ->group(who);
  const std::string what = "What is served";
  app.add_option("-a,--alias", flags.alias, "the model's name for clients (the file's)")->group(what);
  app.add_option("--np,--parallel", a.parallel, "answers at once, further requests wait (4)")
      ->check(CLI::Range(1, 256))
      ->group(what);
  app.add_flag("--show-routing", a.http.show_routing,
               "the page shows from the start which experts have each token")
      ->group(what);
  app.add_flag("--no-page", a.no_page, "the API alone, no page at /")->group(what);
  app.add_option("--max-body", a.max_body, "largest request in bytes: 500k, 16M (16M)")->group(what);
  app.add_option("--timeout", a.http.request_seconds,
                 "seconds that a client may take to send a request, and to read a piece of its answer (30)")
      ->check(CLI::Range(1, 3600))
      ->group(what);
  const std::string report = "What is reported";
  app.add_flag("-v", a.requests, "a line for each request: path, status, time; no texts, no keys")
      ->group(report);
  app.add_flag("-q,--quiet", a.quiet, "warnings and errors only")->group(report);
}

void add_key(std::vector<std::string>& keys, std::string key, std::string_view from) {
  while (!key.empty() && (key.back() == '\r' || key.back() == ' ')) key.pop_back();
  if (key.empty()) return;
  const bool plain = std::ranges::all_of(key, [](char c) { return c > ' ' && c <= '~'; });
  if (!plain || key.size() > kMaxKey)
    fail(ErrorKind::usage,
         "{}: a key should have at most {} letters, digits and signs, no spaces: it travels in a header",
         from, kMaxKey);
  keys.push_back(std::move(key));
}

std::vector<std::string> read_keys(const Arguments& a) {
  std::vector<std::string> keys;
  for (const std::string& key : a.http.keys) {
    if (key.empty()) fail(ErrorKind::usage, "--api-key: the key is empty");
    add_key(keys, key, "--api-key");
  }
  if (!a.key_file.empty()) {
    const std::string text = read_file(a.key_file, kMaxKeyFile);
    const size_t before = keys.size();
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      add_key(keys, text.substr(at, end - at), a.key_file);
      at = end + 1;
    }
    if (keys.size() == before) fail(ErrorKind::usage, "--api-key-file {}: it holds no key", a.key_file);
  }
  if (const char* key = std::getenv("MOERGE_API_KEY"); key && *key) add_key(keys, key, "MOERGE_API_KEY");
  return keys;
}

void wait_for_interrupt() {
  try {
    for (;;) {
      check_interrupted();
      std::this_thread::sleep_for(kPoll);
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::interrupted) throw;
  }
}

}  // namespace

int run_serve(std::string_view program, const std::vector<std::string>& arguments) {
  Arguments a;
  InferenceFlags flags;
  CLI::App app(
      "Answers over HTTP as the OpenAI API does, with llama.cpp's server engine, and shows a page to talk to "
      "the model. A request with \"routing\": true is also told which experts have each token.",
      std::string(program));
  add_flags(app, a, flags);
  add_inference_flags(app, flags);
  app.footer(kExamples);
  std::vector<std::string> words = split_llama_flags(arguments, flags);
  for (std::string& word : words)
    if (word == "-np") word = "--np";  // as llama.cpp spells it, which CLI11 would take for -n p
  if (!parse_arguments(app, words, program)) return 0;

  Reporter reporter(a.quiet ? Verbosity::quiet : Verbosity::normal);
  HttpOptions options = a.http;
  if (!a.hosts.empty()) options.hosts = a.hosts;
  options.keys = read_keys(a);
  options.max_body = std::min<int64_t>(parse_size(a.max_body, "--max-body"), int64_t{1} << 30);
  options.page = !a.no_page;
  const bool has_key = !options.keys.empty(), page = options.page;
  if (a.requests || flags.verbose) options.log = [](std::string_view line) { print_error_line(line); };

  std::unique_ptr<Inference> inference;  // outlives the server
  HttpServer server(std::move(options));
  if (!server.loopback_only() && !has_key)
    reporter.warning(
        "everybody who can reach this computer over the network can use the server: --api-key-file FILE "
        "makes it ask for a key, --host 127.0.0.1 keeps it to this computer");
  inference = open_inference(a.model, flags, a.parallel, reporter);
  server.attach(*inference);
  for (const std::string& address : server.addresses())
    print_result(fmt::format("moerge serves {} at {}{}/v1 (API)\n", inference->info().name,
                             page ? address + " (page), " : "", address));
  wait_for_interrupt();
  reporter.info("stops");
  server.stop();
  return 0;
}

}  // namespace moerge
