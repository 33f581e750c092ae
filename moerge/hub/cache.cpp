#include "moerge/hub/cache.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/suggest.h"
#include "moerge/formats/gguf_files.h"
#include "moerge/formats/weight_files.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kExpertFragment = "expert", kSharedFragment = "shared_expert";

// False as well where the system cannot say (a name that is too long, a loop of links).
bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

std::optional<fs::path> find_snapshot(const HubName& name, const fs::path& cache) {
  const fs::path repository = cache / cache_folder_name(name);
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

// Where one half of a reference is looked for.
struct Places {
  std::vector<fs::path> paths;  // the working folder last
  bool absolute;
  bool gguf;  // by its name
};

Places places_of(const std::string& reference, const fs::path& yaml_folder, const Environment& environment) {
  fs::path path = reference;
  if (reference.starts_with("~/")) path = fs::path(environment("HOME").value_or("/")) / reference.substr(2);
  Places places = {{path}, path.is_absolute(), is_gguf_name(path)};
  if (!places.absolute) places.paths.insert(places.paths.begin(), yaml_folder / path);
  return places;
}

std::optional<fs::path> find_local(const Places& places) {
  for (const fs::path& place : places.paths)
    if (is_folder(place) || (places.gguf && is_file(place))) return place;
  return {};
}

// What a reference names: "model" or "model+adapter".
struct Reference {
  std::string model, adapter;  // the adapter is empty when there is none
};

// A "+" divides, unless a model's path that exists has it in its name.
Reference split_adapter(const std::string& reference, const std::function<bool(const std::string&)>& exists) {
  size_t divide = reference.find('+');
  if (divide == std::string::npos || exists(reference)) return {reference, ""};
  for (size_t at = divide; at != std::string::npos; at = reference.find('+', at + 1))
    if (exists(reference.substr(0, at))) divide = at;
  return {reference.substr(0, divide), reference.substr(divide + 1)};
}

// One half of a reference: "model" or "adapter".
struct Found {
  fs::path path;
  std::string hub_name;
};
Found find_one(std::string_view what, const std::string& reference, const fs::path& yaml_folder,
               const Environment& environment, const FindElsewhere& elsewhere) {
  if (reference.empty()) fail(ErrorKind::config, "an empty {} reference", what);
  const Places places = places_of(reference, yaml_folder, environment);
  if (const auto place = find_local(places)) return {*place, {}};
  for (const fs::path& place : places.paths)
    if (is_file(place))
      fail(ErrorKind::config, "{} \"{}\": {} is a file, not a model's folder or a .gguf file", what,
           reference, place.string());
  const std::string_view kind = places.gguf ? "file" : "folder";
  if (places.absolute) fail(ErrorKind::config, "{} \"{}\": there is no such {}", what, reference, kind);

  const std::string looked =
      fmt::format("{} and the working folder", yaml_folder.empty() ? "." : yaml_folder.string());
  if (places.gguf)
    fail(ErrorKind::config,
         "{} \"{}\": no such file (looked in {}); a GGUF file is named by its path, not by a repository",
         what, reference, looked);
  const std::optional<HubName> name = parse_hub_name(reference);
  if (!name)
    fail(ErrorKind::config,
         "{} \"{}\": no such folder (looked in {}), and not a model name like \"org/name\"", what, reference,
         looked);
  const fs::path cache = hub_cache(environment);
  const std::optional<fs::path> snapshot = find_snapshot(*name, cache);
  if (snapshot && (!elsewhere || has_weights(*snapshot))) return {*snapshot, name->repository};
  const std::string nowhere =
      fmt::format("{} \"{}\": no such folder (looked in {}), and not {} the Hugging Face cache {}", what,
                  reference, looked, snapshot ? "complete in" : "in", cache.string());
  if (elsewhere) try {
      return {elsewhere(*name), name->repository};
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupted) throw;
      fail(error.kind(), "{}; {}", nowhere, error.message());
    }
  const std::string revision = name->revision == HubName().revision ? "" : "@" + name->revision;
  fail(ErrorKind::config, "{}; fetch it with \"moerge pull {}{}\"", nowhere, name->repository, revision);
}

}  // namespace

bool has_weights(const fs::path& folder) {
  const std::vector<std::string> files = list_weight_files(folder);
  if (!std::ranges::all_of(files, [&](const std::string& file) { return is_file(folder / file); }))
    return false;
  const bool adapter =
      is_file(folder / "adapter_config.json") &&
      (is_file(folder / "adapter_model.safetensors") || is_file(folder / "adapter_model.bin"));
  return adapter || (!files.empty() && is_file(folder / "config.json")) || find_gguf(folder).has_value();
}

ReferenceParts split_reference(const std::string& reference) {
  const size_t hash = reference.rfind('#');
  // A '#' in the name of a folder further up means nothing.
  if (hash == std::string::npos || reference.find('/', hash) != std::string::npos) return {reference, {}};
  const std::string model = reference.substr(0, hash), fragment = reference.substr(hash + 1);
  if (fragment == kSharedFragment) return {model, kSharedExpert};
  const size_t sign = fragment.find('=');
  const std::string digits = sign == std::string::npos ? "" : fragment.substr(sign + 1);
  int64_t expert = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), expert);
  const bool is_number =
      !digits.empty() && error == std::errc() && end == digits.data() + digits.size() && digits[0] != '-';
  if (is_number && fragment.substr(0, sign) == kExpertFragment) return {model, expert};
  constexpr std::array kFragments = {kExpertFragment, kSharedFragment};
  const bool shared = nearest(fragment.substr(0, sign), kFragments) == kSharedFragment;
  fail(ErrorKind::config,
       "model \"{}\": \"#{}\" says no part of a model; did you mean \"{}#{}\"? (experts are numbered from "
       "0)",
       reference, fragment, model,
       shared ? std::string(kSharedFragment) : fmt::format("{}={}", kExpertFragment, is_number ? expert : 0));
}

ModelLocation resolve_model(const std::string& reference, const fs::path& yaml_folder,
                            const Environment& environment, const FindElsewhere& elsewhere) {
  const auto exists = [&](const std::string& name) {
    return !name.empty() && find_local(places_of(name, yaml_folder, environment));
  };
  const Reference names = split_adapter(reference, exists);
  const ReferenceParts parts =
      exists(names.model) ? ReferenceParts{names.model, {}} : split_reference(names.model);
  const Found model = find_one("model", parts.model, yaml_folder, environment, elsewhere);
  ModelLocation location = {.path = model.path, .hub_name = model.hub_name, .expert = parts.expert};
  if (names.model.size() == reference.size()) return location;
  if (names.adapter.find('+') != std::string::npos && !exists(names.adapter))
    fail(ErrorKind::unsupported, "model \"{}\": one LoRA adapter a model (\"model+adapter\") is read",
         reference);
  const Found adapter = find_one("adapter", names.adapter, yaml_folder, environment, elsewhere);
  if (!is_folder(adapter.path))
    fail(ErrorKind::unsupported, "adapter \"{}\": a GGUF file; adapters are folders with adapter_config.json",
         names.adapter);
  location.adapter = adapter.path;
  location.adapter_hub_name = adapter.hub_name;
  return location;
}

ModelLocation name_repositories(const std::string& reference) {
  const Reference names = split_adapter(reference, [](const std::string&) { return false; });
  const auto repository = [](const std::string& name) {
    const std::string model = name.substr(0, name.find('#'));
    const std::optional<HubName> found = parse_hub_name(model);
    return found && !is_gguf_name(model) ? found->repository : "";
  };
  return {.path = {}, .hub_name = repository(names.model), .adapter_hub_name = repository(names.adapter)};
}

}  // namespace moerge
