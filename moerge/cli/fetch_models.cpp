#include "moerge/cli/fetch_models.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/version.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

// The nearest folder that exists: where something will be made.
fs::path existing_parent(fs::path path) {
  path = fs::absolute(path);
  std::error_code ignored;
  while (path.has_relative_path() && !fs::exists(path, ignored)) path = path.parent_path();
  return path;
}

bool on_one_disk(const fs::path& a, const fs::path& b) {
  struct stat first = {}, second = {};
  return stat(existing_parent(a).c_str(), &first) == 0 && stat(existing_parent(b).c_str(), &second) == 0 &&
         first.st_dev == second.st_dev;
}

void check_space(int64_t fetched, const fs::path& where, int64_t result, const fs::path& out) {
  const int64_t free = free_space(where);
  const bool both = !out.empty() && on_one_disk(where, out);
  const int64_t needed = fetched + (both ? result : 0);
  if (needed <= free) return;
  fail(ErrorKind::io,
       "not enough space: {} to fetch into {}{} are {}, {} free; HF_HUB_CACHE (MOERGE_CACHE with --remote) "
       "names "
       "another disk, --remote fetches only what is used",
       human_bytes(fetched), where.string(),
       both ? fmt::format(" and {} of the result on the same disk", human_bytes(result)) : "",
       human_bytes(needed), human_bytes(free));
}

}  // namespace

HubSettings command_hub_settings(const Environment& environment) {
  HubSettings settings = hub_settings(environment);
  settings.user_agent = fmt::format("moerge/{}", kVersion);
  return settings;
}

ModelFetcher::ModelFetcher(const SourceOptions& options, Reporter& reporter)
    : reporter_(reporter),
      environment_(environment_of(options)),
      downloads_{.cache = hub_cache(environment_)} {}

ModelFetcher::~ModelFetcher() = default;

RemoteModel& ModelFetcher::look_at(const HubName& name) {
  if (!hub_) hub_ = std::make_unique<Hub>(command_hub_settings(environment_), reporter_);
  std::unique_ptr<RemoteModel>& model = looked_at_[name];
  if (!model) {
    reporter_.info(fmt::format("{} is not in the cache: reads what it is from {}", name.repository,
                               hub_->settings().endpoint));
    try {
      model = std::make_unique<RemoteModel>(*hub_, name, moerge_cache(environment_) / "remote", downloads_);
    } catch (...) {
      looked_at_.erase(name);
      throw;
    }
  }
  return *model;
}

// Offline nothing is asked: resolve_model() then says what is missing.
FindElsewhere ModelFetcher::elsewhere(const std::function<fs::path(const HubName&)>& find) {
  if (is_offline(environment_)) return {};
  return [this, find](const HubName& name) {
    const auto found = fetched_.find(name);
    return found != fetched_.end() ? found->second : find(name);
  };
}

ModelLocation ModelFetcher::look(const std::string& reference, const fs::path& yaml_folder) {
  return resolve_model(reference, yaml_folder, environment_,
                       elsewhere([this](const HubName& name) { return look_at(name).folder(); }));
}

ModelLocation ModelFetcher::fetch(const std::string& reference, const fs::path& yaml_folder) {
  return resolve_model(reference, yaml_folder, environment_, elsewhere([this](const HubName& name) {
                         const RemoteModel& model = look_at(name);
                         const fs::path folder = download_folder(model.repository(), downloads_);
                         fetch_all({}, 0);
                         return folder;
                       }));
}

bool ModelFetcher::is_missing(const std::string& reference, const fs::path& yaml_folder) const {
  if (is_offline(environment_)) return false;
  bool missing = false;
  resolve_model(reference, yaml_folder, environment_, [&](const HubName&) {
    missing = true;
    return fs::path(".");
  });
  return missing;
}

void ModelFetcher::fetch_all(const fs::path& out, int64_t result_bytes) {
  std::vector<Download> all;
  for (const auto& [name, model] : looked_at_) std::ranges::copy(model->downloads(), std::back_inserter(all));
  const Missing missing = find_missing(all, downloads_);
  check_space(missing.bytes, downloads_.cache, result_bytes, out);
  for (const auto& [name, model] : looked_at_) {
    int64_t bytes = 0;
    for (const Download& file : model->downloads()) bytes += file.file.size;
    reporter_.info(fmt::format("fetches {}@{}, {}, into {}", name.repository, name.revision,
                               human_bytes(bytes), downloads_.cache.string()));
  }
  download(*hub_, all, downloads_);
  for (const auto& [name, model] : looked_at_) {
    fetched_[name] = download_folder(model->repository(), downloads_);
    model->remove_unless_kept();
  }
  looked_at_.clear();
}

void ModelFetcher::fetch_ranges(const SourceBytes& needed, const fs::path& out, int64_t result_bytes) {
  int64_t bytes = 0, whole = 0;
  std::map<RemoteModel*, std::map<std::string, ByteRanges>> wanted;
  for (const auto& [name, model] : looked_at_) {
    for (const HubFile& file : model->weights()) {
      whole += file.size;
      const ByteRanges ranges = merged(needed.ranges(model->folder() / file.path));
      if (ranges.empty()) continue;
      wanted[model.get()][file.path] = ranges;
      bytes += total_bytes(model->missing(file.path, ranges));
    }
  }
  check_space(bytes, moerge_cache(environment_), result_bytes, out);
  reporter_.info(fmt::format("fetches {} of the {} that the models have, those that are used",
                             human_bytes(bytes), human_bytes(whole)));
  Progress progress(reporter_, "fetched", bytes);
  for (const auto& [model, files] : wanted) model->bring(files, &progress);
  progress.finish();
}

void ModelFetcher::forget() {
  for (const auto& [name, model] : looked_at_) model->remove_unless_kept();
}

void ModelFetcher::forget_headers() {
  for (const auto& [name, model] : looked_at_)
    if (!model->has_parts()) model->remove_unless_kept();
}

fs::path ModelFetcher::fetch_ffn(const std::string& reference) {
  const ModelLocation location = look(reference, {});
  if (!any()) {
    reporter_.info(fmt::format("{} is here already, whole", reference));
    return location.path;
  }
  const Model model(reference, location);
  SourceBytes needed;
  for (const Weight& weight : list_weights(*model.architecture, model.config, model.checkpoint))
    if (is_ffn(weight.role)) needed.add(model.checkpoint.at(weight.name));
  fetch_ranges(needed, {}, 0);
  for (const auto& [name, remote] : looked_at_) remote->keep();
  return location.path;
}

ModelLocation fetch_model(const std::string& reference, const SourceOptions& options, Reporter& reporter) {
  return ModelFetcher(options, reporter).fetch(reference, {});
}

}  // namespace moerge
