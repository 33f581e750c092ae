#include "moerge/hub/cache.h"

#include <cstdlib>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/base/file.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kDefaultRevision = "main";

struct HubName {
  std::string repository;  // "org/name"
  std::string revision;
};

// False as well where the system cannot say (a name that is too long, a loop of links).
bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

bool is_hub_word(std::string_view word) {
  if (word.empty() || word.starts_with('.') || word.size() > 96) return false;
  for (const unsigned char c : word)
    if (!std::isalnum(c) && c != '-' && c != '_' && c != '.') return false;
  return true;
}

// "org/name[@revision]"; revisions may contain slashes ("refs/pr/3") but never climb out of the cache.
std::optional<HubName> parse_hub_name(std::string_view reference) {
  HubName name;
  const size_t at = reference.find('@');
  name.revision = at == std::string_view::npos ? kDefaultRevision : reference.substr(at + 1);
  name.repository = reference.substr(0, at);
  const size_t slash = name.repository.find('/');
  if (slash == std::string::npos) return {};
  const std::string_view repository = name.repository;
  if (!is_hub_word(repository.substr(0, slash)) || !is_hub_word(repository.substr(slash + 1))) return {};
  if (name.revision.empty() || name.revision.starts_with('/') ||
      name.revision.find("..") != std::string::npos)
    return {};
  return name;
}

std::optional<fs::path> find_snapshot(const HubName& name, const fs::path& cache) {
  std::string folder = "models--" + name.repository;
  folder.replace(folder.find('/'), 1, "--");
  const fs::path repository = cache / folder;
  std::string commit = name.revision;
  if (const fs::path ref = repository / "refs" / name.revision; fs::is_regular_file(ref)) {
    commit = read_file(ref, 1000);
    commit.erase(commit.find_last_not_of(" \n\r\t") + 1);
  }
  if (commit.empty() || commit.find('/') != std::string::npos || commit.find("..") != std::string::npos)
    return {};
  const fs::path snapshot = repository / "snapshots" / commit;
  if (!fs::is_directory(snapshot)) return {};
  return snapshot;
}

}  // namespace

std::optional<std::string> process_environment(const char* name) {
  const char* value = std::getenv(name);
  if (!value || !*value) return {};
  return value;
}

fs::path hub_cache(const Environment& environment) {
  if (const auto path = environment("HF_HUB_CACHE")) return *path;
  if (const auto path = environment("HUGGINGFACE_HUB_CACHE")) return *path;
  if (const auto path = environment("HF_HOME")) return fs::path(*path) / "hub";
  if (const auto path = environment("XDG_CACHE_HOME")) return fs::path(*path) / "huggingface" / "hub";
  return fs::path(environment("HOME").value_or("/")) / ".cache" / "huggingface" / "hub";
}

ModelLocation resolve_model(const std::string& reference, const fs::path& yaml_folder,
                            const Environment& environment) {
  if (reference.empty()) fail(ErrorKind::config, "an empty model reference");
  fs::path path = reference;
  if (reference.starts_with("~/")) path = fs::path(environment("HOME").value_or("/")) / reference.substr(2);
  const bool gguf = is_gguf_name(path);
  std::vector<fs::path> places = {path};
  if (!path.is_absolute()) places.insert(places.begin(), yaml_folder / path);
  for (const fs::path& place : places)
    if (is_folder(place) || (gguf && is_file(place))) return {place, {}};
  for (const fs::path& place : places)
    if (is_file(place))
      fail(ErrorKind::config, "model \"{}\": {} is a file, not a model's folder or a .gguf file", reference,
           place.string());
  const std::string_view kind = gguf ? "file" : "folder";
  if (path.is_absolute()) fail(ErrorKind::config, "model \"{}\": there is no such {}", reference, kind);

  if (reference.find('+') != std::string::npos)
    fail(ErrorKind::unsupported,
         "model \"{}\": LoRA adapters (\"model+adapter\") are not read yet; merge it first", reference);
  const std::string looked =
      fmt::format("{} and the working folder", yaml_folder.empty() ? "." : yaml_folder.string());
  if (gguf)
    fail(ErrorKind::config,
         "model \"{}\": no such file (looked in {}); a GGUF file is named by its path, not by a repository",
         reference, looked);
  const std::optional<HubName> name = parse_hub_name(reference);
  if (!name)
    fail(ErrorKind::config,
         "model \"{}\": no such folder (looked in {}), and not a model name like \"org/name\"", reference,
         looked);
  const fs::path cache = hub_cache(environment);
  if (const auto snapshot = find_snapshot(*name, cache)) return {*snapshot, name->repository};
  const std::string revision = name->revision == kDefaultRevision ? "" : " --revision " + name->revision;
  fail(ErrorKind::config,
       "model \"{}\": no such folder (looked in {}), and not in the Hugging Face cache {}; fetch it with "
       "\"hf download {}{}\" (or \"huggingface-cli download\")",
       reference, looked, cache.string(), name->repository, revision);
}

}  // namespace moerge
