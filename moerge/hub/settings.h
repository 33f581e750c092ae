#pragma once
// How the Hub is reached and where its files are kept, by the environment variables that huggingface_hub
// reads (https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables).

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace moerge {

/// Looks up an environment variable; handed in so that tests need not change the process's own.
using Environment = std::function<std::optional<std::string>(const char*)>;
std::optional<std::string> process_environment(const char* name);

/// HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub,
/// ~/.cache/huggingface/hub: the first that is set.
std::filesystem::path hub_cache(const Environment& environment);

/// Where moerge keeps what it makes on the way: MOERGE_CACHE, else "moerge" in the user's cache folder.
std::filesystem::path moerge_cache(const Environment& environment);

/// HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE: no request at all.
bool is_offline(const Environment& environment);

struct HubSettings {
  std::string endpoint = "https://huggingface.co";  // HF_ENDPOINT; no "/" at the end
  std::string token = {};                           // empty: none
  std::string token_source = {};                    // for messages: "HF_TOKEN", "the file ~/..."
  std::filesystem::path cache = {};
  bool offline = false;
  bool symlinks = true;      // off by HF_HUB_DISABLE_SYMLINKS: snapshots hold the files themselves
  int connect_seconds = 10;  // HF_HUB_ETAG_TIMEOUT
  int silence_seconds = 10;  // HF_HUB_DOWNLOAD_TIMEOUT: how long a transfer may stand still
  std::string user_agent = "moerge";
};

/// Throws config for an endpoint that is no http(s) URL, and for a token that no header can hold.
HubSettings hub_settings(const Environment& environment);

}  // namespace moerge
