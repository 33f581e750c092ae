#pragma once
// Names on the Hub: of repositories, revisions and files.

#include <optional>
#include <string>
#include <string_view>

namespace moerge {

/// What a repository of the Hub holds; each kind has names of its own.
enum class RepositoryKind { model, dataset };

/// "model", "data set": for messages.
std::string_view kind_word(RepositoryKind kind);

struct HubName {
  std::string repository;         // "org/name"; a data set's may be "name" alone
  std::string revision = "main";  // a branch, a tag, a commit, or "refs/pr/3"
  RepositoryKind kind = RepositoryKind::model;

  auto operator<=>(const HubName&) const = default;
};

/// "org/name[@revision]"; nothing for what cannot be one. Revisions may contain slashes but are never a path
/// that climbs.
std::optional<HubName> parse_hub_name(std::string_view reference,
                                      RepositoryKind kind = RepositoryKind::model);

/// "models--org--name" or "datasets--org--name", a repository's folder in the cache.
std::string cache_folder_name(const HubName& name);

/// 40 hexadecimal digits: a commit, which never means something else later.
bool is_commit(std::string_view revision);

/// A file's name in a repository that stays inside the folder it is put in: relative, no empty part, no "."
/// or "..", no ".git", no backslash, no control character, nothing too long for a file system.
bool is_safe_path(std::string_view path);

/// Percent-encoded for a URL; "/" stays when `keep_slashes`.
std::string url_encoded(std::string_view text, bool keep_slashes);

/// Does the name match a shell pattern, as Python's fnmatch has them ("*" passes over "/" too); a pattern
/// that ends in "/" means everything below.
bool matches_pattern(const std::string& path, const std::string& pattern);

}  // namespace moerge
