#include "moerge/hub/settings.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/lower_case.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxTokenFile = 64 * 1024;

fs::path home(const Environment& environment) { return environment("HOME").value_or("/"); }

// A folder or file that a variable names; "~" is the home, as huggingface_hub has it.
std::optional<fs::path> path_in(const Environment& environment, const char* name) {
  const auto text = environment(name);
  if (!text) return {};
  if (*text == "~") return home(environment);
  if (text->starts_with("~/")) return home(environment) / text->substr(2);
  return *text;
}

fs::path hf_home(const Environment& environment) {
  if (const auto path = path_in(environment, "HF_HOME")) return *path;
  if (const auto path = path_in(environment, "XDG_CACHE_HOME")) return *path / "huggingface";
  return home(environment) / ".cache" / "huggingface";
}

bool is_on(const Environment& environment, const char* name) {
  const std::string value = lower_case(environment(name).value_or(""));
  return value == "1" || value == "on" || value == "yes" || value == "true";
}

std::string stripped(std::string text) {
  constexpr const char* kSpace = " \t\r\n";
  text.erase(text.find_last_not_of(kSpace) + 1);
  text.erase(0, text.find_first_not_of(kSpace));
  return text;
}

int seconds(const Environment& environment, const char* name, int otherwise) {
  const std::string value = environment(name).value_or("");
  int number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || number <= 0) return otherwise;
  return std::min(number, 86400);
}

void find_token(HubSettings& settings, const Environment& environment) {
  if (is_on(environment, "HF_HUB_DISABLE_IMPLICIT_TOKEN")) return;
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
    if (settings.token = stripped(environment(name).value_or("")); !settings.token.empty()) {
      settings.token_source = name;
      return;
    }
  const fs::path file = path_in(environment, "HF_TOKEN_PATH").value_or(hf_home(environment) / "token");
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) return;
  settings.token = stripped(read_file(file, kMaxTokenFile));
  if (!settings.token.empty()) settings.token_source = fmt::format("the file {}", file.string());
}

}  // namespace

std::optional<std::string> process_environment(const char* name) {
  const char* value = std::getenv(name);
  if (!value || !*value) return {};
  return value;
}

fs::path hub_cache(const Environment& environment) {
  if (const auto path = path_in(environment, "HF_HUB_CACHE")) return *path;
  if (const auto path = path_in(environment, "HUGGINGFACE_HUB_CACHE")) return *path;
  return hf_home(environment) / "hub";
}

fs::path moerge_cache(const Environment& environment) {
  if (const auto path = environment("MOERGE_CACHE")) return *path;
  if (const auto path = environment("XDG_CACHE_HOME")) return fs::path(*path) / "moerge";
  return fs::path(environment("HOME").value_or("/")) / ".cache" / "moerge";
}

bool is_offline(const Environment& environment) {
  return is_on(environment, "HF_HUB_OFFLINE") || is_on(environment, "TRANSFORMERS_OFFLINE");
}

HubSettings hub_settings(const Environment& environment) {
  HubSettings out;
  if (const auto endpoint = environment("HF_ENDPOINT")) out.endpoint = stripped(*endpoint);
  while (out.endpoint.ends_with('/')) out.endpoint.pop_back();
  if (!out.endpoint.starts_with("https://") && !out.endpoint.starts_with("http://"))
    fail(ErrorKind::config, "HF_ENDPOINT is \"{}\"; expected a URL such as https://huggingface.co",
         out.endpoint);
  find_token(out, environment);
  if (std::ranges::any_of(out.token, [](unsigned char c) { return c <= ' ' || c >= 0x7f; }))
    fail(ErrorKind::config, "the token in {} holds spaces or other characters that no token has",
         out.token_source);
  out.cache = hub_cache(environment);
  out.offline = is_offline(environment);
  out.symlinks = !is_on(environment, "HF_HUB_DISABLE_SYMLINKS");
  out.connect_seconds = seconds(environment, "HF_HUB_ETAG_TIMEOUT", out.connect_seconds);
  out.silence_seconds = seconds(environment, "HF_HUB_DOWNLOAD_TIMEOUT", out.silence_seconds);
  return out;
}

}  // namespace moerge
