#include "moerge/hub/name.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>

#include "moerge/base/digest.h"
#include "moerge/base/lower_case.h"
#include "moerge/base/utf8.h"

namespace moerge {
namespace {

constexpr size_t kMaxWord = 96, kMaxPart = 240, kMaxPath = 2000;

bool is_hub_word(std::string_view word) {
  if (word.empty() || word.starts_with('.') || word.size() > kMaxWord || word.find("--") != word.npos)
    return false;
  for (const unsigned char c : word)
    if (!std::isalnum(c) && c != '-' && c != '_' && c != '.') return false;
  return true;
}

bool is_safe_part(std::string_view part) {
  if (part.empty() || part == "." || part == ".." || part.size() > kMaxPart) return false;
  return lower_case(std::string(part)) != ".git";
}

}  // namespace

std::string_view kind_word(RepositoryKind kind) {
  return kind == RepositoryKind::model ? "model" : "data set";
}

std::optional<HubName> parse_hub_name(std::string_view reference, RepositoryKind kind) {
  HubName name = {.repository = {}, .kind = kind};
  const size_t at = reference.find('@');
  if (at != std::string_view::npos) name.revision = reference.substr(at + 1);
  name.repository = reference.substr(0, at);
  const size_t slash = name.repository.find('/');
  if (slash == std::string::npos && kind == RepositoryKind::model) return {};
  const std::string_view repository = name.repository;
  if (!is_hub_word(repository.substr(0, slash))) return {};
  if (slash != std::string::npos && !is_hub_word(repository.substr(slash + 1))) return {};
  if (!is_safe_path(name.revision) || name.revision.find("..") != std::string::npos) return {};
  return name;
}

std::string cache_folder_name(const HubName& name) {
  std::string folder =
      fmt::format("{}--{}", name.kind == RepositoryKind::model ? "models" : "datasets", name.repository);
  if (const size_t slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
  return folder;
}

bool is_commit(std::string_view revision) { return is_hex(revision, 40); }

bool is_safe_path(std::string_view path) {
  if (path.size() > kMaxPath || !is_utf8(path)) return false;
  if (std::ranges::any_of(path, [](unsigned char c) { return c < ' ' || c == 0x7f || c == '\\'; }))
    return false;
  for (size_t start = 0;;) {
    const size_t slash = path.find('/', start);
    if (!is_safe_part(path.substr(start, slash == std::string_view::npos ? slash : slash - start)))
      return false;
    if (slash == std::string_view::npos) return true;
    start = slash + 1;
  }
}

std::string url_encoded(std::string_view text, bool keep_slashes) {
  std::string out;
  for (const unsigned char c : text)
    if (std::isalnum(c) || c == '_' || c == '.' || c == '-' || c == '~' || (c == '/' && keep_slashes))
      out += static_cast<char>(c);
    else
      out += fmt::format("%{:02X}", c);
  return out;
}

bool matches_pattern(const std::string& path, const std::string& pattern) {
  const std::string whole = pattern.ends_with('/') ? pattern + "*" : pattern;
  return fnmatch(whole.c_str(), path.c_str(), FNM_NOESCAPE) == 0;
}

}  // namespace moerge
