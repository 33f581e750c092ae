#include "moerge/cli/model_source.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/suggest.h"
#include "moerge/base/version.h"
#include "moerge/cli/export_source.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/cli/merge_source.h"
#include "moerge/formats/gguf_files.h"
#include "moerge/moe/config.h"
#include "moerge/moe/text_files.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMaxEntries = 4096;  // of a folder, looked through for names
constexpr size_t kMaxShown = 6;

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

// -------- what the result depends on

void add_file(std::string& state, const fs::path& path) {
  struct stat found = {};
  if (stat(path.c_str(), &found) != 0) fail_errno("cannot read", path.string());
  state += fmt::format("file {}\n{} bytes, {}.{:09} s\n", fs::canonical(path).string(), found.st_size,
                       found.st_mtim.tv_sec, found.st_mtim.tv_nsec);
}

void add_folder(std::string& state, const fs::path& folder) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (!entry.path().filename().string().starts_with('.') && is_file(entry.path()))
      files.push_back(entry.path());
  std::ranges::sort(files);
  for (const fs::path& file : files) add_file(state, file);
}

// A file alone, or with the other parts of a split one.
void add_gguf(std::string& state, const fs::path& file) {
  const std::string name = file.filename().string();
  const size_t part = name.find("-00001-of-");
  if (part == std::string::npos) return add_file(state, file);
  std::set<fs::path> parts;
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::absolute(file).parent_path()))
    if (entry.path().filename().string().starts_with(name.substr(0, part + 1)) &&
        is_gguf_name(entry.path()) && is_file(entry.path()))
      parts.insert(entry.path());
  for (const fs::path& path : parts) add_file(state, path);
}

void add_model(std::string& state, const ModelLocation& location) {
  state +=
      fmt::format("model \"{}\", expert {}, adapter \"{}\"\n", location.hub_name,
                  location.expert ? std::to_string(*location.expert) : "none", location.adapter_hub_name);
  is_folder(location.path) ? add_folder(state, location.path) : add_gguf(state, location.path);
  if (const fs::path more = location.path / "additional_chat_templates"; is_folder(more))
    add_folder(state, more);
  if (!location.adapter.empty()) add_folder(state, location.adapter);
}

std::string models_state(const std::set<std::string>& references, const fs::path& folder,
                         const SourceOptions& options) {
  std::string state;
  const Environment environment = environment_of(options);
  for (const std::string& reference : references) {
    state += fmt::format("reference {}\n", reference);
    add_model(state, resolve_model(reference, folder, environment));
  }
  return state;
}

bool is_any_missing(const std::set<std::string>& references, const fs::path& folder,
                    const ModelFetcher& fetcher) {
  return std::ranges::any_of(references,
                             [&](const std::string& it) { return fetcher.is_missing(it, folder); });
}

std::string merge_state(const fs::path& file, const SourceOptions& options, Reporter& reporter) {
  const std::string text = read_file(file, kMaxMergeConfig);
  const MergeStages stages(text, file.string());
  const std::vector<std::string> models = stages.models();
  const std::set<std::string> references(models.begin(), models.end());
  ModelFetcher fetcher(options, reporter);
  if (is_any_missing(references, file.parent_path(), fetcher))
    plan_merge_yaml(file, merge_options(options), {}, options.fetch, fetcher);  // fetches them, once they fit
  std::string state = fmt::format("yaml of {} bytes\n{}\n", text.size(), text);
  state += models_state(references, file.parent_path(), options);
  const std::string& chat_template = stages.result().chat_template;
  if (!chat_template.empty() && is_file(file.parent_path() / chat_template))
    add_file(state, file.parent_path() / chat_template);
  return state;
}

std::string yaml_state(const fs::path& file, const SourceOptions& options, Reporter& reporter) {
  if (makes_merge(file)) return merge_state(file, options, reporter);
  const std::string text = read_file(file, kMaxMoeConfig);
  const MoeConfig config = parse_moe_config(text, file.string(), options.allow_all_same);
  std::string state = fmt::format("yaml of {} bytes\n{}\n", text.size(), text);
  std::set<std::string> references = {config.base_model};
  for (const std::vector<ExpertConfig>* list : {&config.experts, &config.shared_experts})
    for (const ExpertConfig& expert : *list) {
      references.insert(expert.source_model);
      for (const TextFile& data : find_text_files(expert.data)) add_file(state, data.path);
    }
  // Merges in other documents of the file are no models; what they are made of is.
  const MergeStages stages(text, file.string());
  std::erase_if(references, [&](const std::string& it) { return stages.is_stage(it); });
  for (const std::string& model : stages.models()) references.insert(model);
  const fs::path folder = file.parent_path();
  ModelFetcher fetcher(options, reporter);
  if (is_any_missing(references, folder, fetcher)) open_yaml(file, options, {}, fetcher);  // once they fit
  state += models_state(references, folder, options);
  if (config.chat_template.kind == ChatTemplateChoice::Kind::file && is_file(config.chat_template.file))
    add_file(state, config.chat_template.file);
  return state;
}

// -------- names

std::string plain_name(std::string text) {
  for (char& c : text)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_') c = '-';
  while (text.starts_with('.') || text.starts_with('-')) text.erase(0, 1);
  if (text.size() > 100) text.resize(100);  // file systems take 255 bytes a name
  return text.empty() ? "model" : text;
}

std::string last_part(const fs::path& path) {
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

bool looks_like_a_model(const fs::path& path) {
  if (is_file(path)) return is_gguf_name(path) || is_yaml(path);
  if (is_file(path / "config.json")) return true;
  std::error_code error;
  for (fs::directory_iterator at(path, error), end; !error && at != end; at.increment(error))
    if (is_gguf_name(at->path())) return true;
  return false;
}

std::vector<std::string> models_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  size_t looked = 0;
  for (fs::directory_iterator at(folder.empty() ? "." : folder, error), end;
       !error && at != end && looked++ < kMaxEntries; at.increment(error))
    if (!last_part(at->path()).starts_with('.') && looks_like_a_model(at->path()))
      names.push_back(last_part(at->path()));
  std::ranges::sort(names);
  return names;
}

std::string nearest_of(const std::string& word, const std::vector<std::string>& names) {
  const std::vector<std::string_view> views(names.begin(), names.end());
  if (const std::string close = nearest(word, views); !close.empty()) return close;
  const auto longer = std::ranges::find_if(
      names, [&](const std::string& name) { return !word.empty() && name.starts_with(word); });
  return longer == names.end() ? "" : *longer;
}

// "org/name" of all that lies in the Hub's cache.
std::vector<std::string> hub_names(const SourceOptions& options) {
  constexpr std::string_view kPrefix = "models--";
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(hub_cache(environment_of(options)), error), end; !error && at != end;
       at.increment(error)) {
    std::string name = last_part(at->path());
    if (!name.starts_with(kPrefix)) continue;
    name.erase(0, kPrefix.size());
    if (const size_t divide = name.find("--"); divide != std::string::npos)
      names.push_back(name.replace(divide, 2, "/"));
  }
  std::ranges::sort(names);
  return names;
}

// "; did you mean ...", or what there is, or nothing.
std::string what_is_nearby(const std::string& model, const SourceOptions& options) {
  fs::path path = model.substr(0, model.find_first_of("#+@"));
  if (!path.has_filename()) path = path.parent_path();
  const std::vector<std::string> names = models_in(path.parent_path());
  if (const std::string close = nearest_of(last_part(path), names); !close.empty())
    return fmt::format("; did you mean \"{}\"?", (path.parent_path() / close).string());
  if (const std::string close = nearest_of(path.string(), hub_names(options)); !close.empty())
    return fmt::format("; did you mean \"{}\"?", close);
  if (names.empty()) return "";
  std::vector<std::string> shown(names.begin(),
                                 names.begin() + static_cast<int64_t>(std::min(names.size(), kMaxShown)));
  if (names.size() > kMaxShown) shown.push_back(fmt::format("{} more", names.size() - kMaxShown));
  const std::string folder = path.parent_path().empty() ? "this folder" : path.parent_path().string();
  return fmt::format("; {} has {}", folder, fmt::join(shown, ", "));
}

ModelLocation locate(const std::string& model, const SourceOptions& options, Reporter& reporter) {
  try {
    return fetch_model(model, options, reporter);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::config) throw;
    fail(ErrorKind::usage, "{}{}", error.message(), what_is_nearby(model, options));
  }
}

bool starts_like_gguf(const fs::path& path) {
  const File file = File::open_read(path);
  std::array<char, 4> start = {};
  if (file.size() < std::ssize(start)) return false;
  file.read_at(0, std::as_writable_bytes(std::span(start)));
  return std::string_view(start.data(), start.size()) == "GGUF";
}

std::string without_part_number(const std::string& stem) { return stem.substr(0, stem.find("-00001-of-")); }

}  // namespace

ModelSource find_model(const std::string& model, const SourceOptions& options, Reporter& reporter) {
  if (model.empty()) fail(ErrorKind::usage, "MODEL is empty: name a GGUF file, a YAML or a model");
  ModelSource out;
  out.given = model;
  const std::string flags = fmt::format("moerge {}\nall the same {}, crimes {}, seed {}\n", kVersion,
                                        options.allow_all_same, options.allow_crimes, options.seed);
  if (is_yaml(model) && !is_folder(model)) {
    if (!fs::exists(model))
      fail(ErrorKind::usage, "MODEL \"{}\": there is no such file{}", model, what_is_nearby(model, options));
    out.name = plain_name(fs::path(model).stem().string());
    out.identity = "yaml " + fs::canonical(model).string();
    out.state = flags + yaml_state(model, options, reporter);
    return out;
  }
  if (is_file(model) && !is_gguf_name(model) && starts_like_gguf(model)) {
    out.name = plain_name(last_part(model));
    out.gguf = model;
    return out;
  }
  const ModelLocation location = locate(model, options, reporter);
  if (location.adapter.empty() && !location.expert)
    out.gguf = is_folder(location.path) ? find_gguf(location.path) : location.path;
  if (out.gguf) {
    out.name = plain_name(without_part_number(out.gguf->stem().string()));
    return out;
  }
  out.name = plain_name(source_name(location));
  out.identity = fmt::format("model {}\n{}\n{}\n{}", fs::weakly_canonical(location.path).string(),
                             location.expert.value_or(INT64_MIN),
                             location.adapter.empty() ? "" : fs::weakly_canonical(location.adapter).string(),
                             location.hub_name);
  // A snapshot's path changes with its commit; it stays the same source.
  if (!location.hub_name.empty())
    out.identity = fmt::format("hub {}\n{}\n{}", location.hub_name, location.expert.value_or(INT64_MIN),
                               model.substr(std::min(model.size(), model.find_first_of("@#+"))));
  out.state = flags;
  add_model(out.state, location);
  return out;
}

}  // namespace moerge
