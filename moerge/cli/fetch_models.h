#pragma once
// Models that a command names and this machine does not have: looked at on the Hub, then fetched.

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "moerge/base/progress.h"
#include "moerge/cli/moe_source.h"
#include "moerge/hub/cache.h"
#include "moerge/hub/remote_model.h"

namespace moerge {

/// The settings of the Hub's client for a command.
HubSettings command_hub_settings(const Environment& environment);

class ModelFetcher {
 public:
  ModelFetcher(const SourceOptions& options, Reporter& reporter);
  ~ModelFetcher();

  /// resolve_model(); of a model that is not in the cache only what is needed to plan is fetched, kilobytes.
  ModelLocation look(const std::string& reference, const std::filesystem::path& yaml_folder);
  /// resolve_model(); a model that is not in the cache is fetched.
  ModelLocation fetch(const std::string& reference, const std::filesystem::path& yaml_folder);

  /// Would look() or fetch() ask the Hub? Nothing is opened.
  bool is_missing(const std::string& reference, const std::filesystem::path& yaml_folder) const;
  /// Has look() found models that have to be fetched?
  bool any() const { return !looked_at_.empty(); }
  /// Fetches them whole. `result_bytes` are going to be written to `out` (empty: nothing is) afterwards: both
  /// have to fit on the disk, which is found out first.
  void fetch_all(const std::filesystem::path& out, int64_t result_bytes);
  /// Fetches the parts of them that these are, so that what look() opened can be read. What is fetched is
  /// removed by forget(), unless an earlier command keeps it.
  void fetch_ranges(const SourceBytes& needed, const std::filesystem::path& out, int64_t result_bytes);
  void forget();
  /// The same after a plan: what an interrupted run has fetched stays.
  void forget_headers();
  /// Fetches the FFNs of a model on the Hub, and what an adapter has for them, for later commands with
  /// --remote; the folder.
  std::filesystem::path fetch_ffn(const std::string& reference);

 private:
  RemoteModel& look_at(const HubName& name);
  FindElsewhere elsewhere(const std::function<std::filesystem::path(const HubName&)>& find);

  Reporter& reporter_;
  Environment environment_;
  DownloadOptions downloads_;
  std::unique_ptr<Hub> hub_;  // from the first question on
  std::map<HubName, std::unique_ptr<RemoteModel>> looked_at_;
  std::map<HubName, std::filesystem::path> fetched_;  // whole; what was looked at has holes
};

/// ModelFetcher::fetch() for a command that names one model.
ModelLocation fetch_model(const std::string& reference, const SourceOptions& options, Reporter& reporter);

}  // namespace moerge
