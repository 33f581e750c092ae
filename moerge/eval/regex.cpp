#include "moerge/eval/regex.h"

#include <moerge_rust.h>

#include <cstring>

#include "moerge/base/error.h"
#include "moerge/base/progress.h"

namespace moerge {
namespace {

const MoergeRegex* get(const void* handle) { return static_cast<const MoergeRegex*>(handle); }

struct FreeBytes {
  size_t length = 0;
  void operator()(uint8_t* bytes) const { moerge_free_bytes(bytes, length); }
};

[[noreturn]] void fail_with(const std::string& what, char* error) {
  const std::unique_ptr<char, void (*)(char*)> reason(error, moerge_free_text);
  fail(ErrorKind::input, "{}: {}", what, reason ? reason.get() : "unknown error");
}

}  // namespace

void Regex::Free::operator()(void* regex) const { moerge_regex_free(static_cast<MoergeRegex*>(regex)); }

Regex::Regex(std::string_view pattern, const std::string& where) {
  char* error = nullptr;
  handle_.reset(moerge_regex_new(pattern.data(), pattern.size(), &error));
  if (!handle_)
    fail_with(fmt::format("{}: \"{}\" is no regular expression", where, printable(pattern)), error);
}

std::vector<Regex::Match> Regex::find_all(std::string_view text, size_t most) const {
  char* error = nullptr;
  size_t length = 0;
  uint8_t* spans = moerge_regex_find(get(handle_.get()), text.data(), text.size(), most, &length, &error);
  if (!spans) fail_with("a regular expression", error);
  const std::unique_ptr<uint8_t, FreeBytes> owner(spans, FreeBytes{length});
  const size_t groups = moerge_regex_groups(get(handle_.get()));
  size_t span[2];
  std::vector<Match> out;
  for (size_t at = 0; at < length;) {
    Match& match = out.emplace_back(groups);
    for (size_t group = 0; group < groups; group++, at += sizeof(span)) {
      std::memcpy(span, spans + at, sizeof(span));
      if (span[0] != SIZE_MAX) match[group] = text.substr(span[0], span[1] - span[0]);
    }
  }
  return out;
}

std::string Regex::replace_all(std::string_view text, std::string_view by) const {
  char* error = nullptr;
  size_t length = 0;
  uint8_t* changed = moerge_regex_replace(get(handle_.get()), text.data(), text.size(), by.data(), by.size(),
                                          &length, &error);
  if (!changed) fail_with("a regular expression", error);
  const std::unique_ptr<uint8_t, FreeBytes> owner(changed, FreeBytes{length});
  return std::string(reinterpret_cast<const char*>(changed), length);
}

}  // namespace moerge
