#pragma once
// Where a model reference points: a folder, a GGUF file, or a snapshot in the Hugging Face cache
// (https://huggingface.co/docs/huggingface_hub/guides/manage-cache).

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "moerge/model/model.h"

namespace moerge {

/// Looks up an environment variable; handed in so that tests need not change the process's own.
using Environment = std::function<std::optional<std::string>(const char*)>;
std::optional<std::string> process_environment(const char* name);

/// HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub,
/// ~/.cache/huggingface/hub: the first that is set.
std::filesystem::path hub_cache(const Environment& environment);

/// A reference, and what of the model it means.
struct ReferenceParts {
  std::string model;
  std::optional<int64_t> expert;  // "#expert=3", or kSharedExpert for "#shared_expert"
};
/// Takes "#..." off the end. Throws config with the nearest valid spelling when it says neither.
ReferenceParts split_reference(const std::string& reference);

/// A reference as YAML files write it: a folder or a GGUF file (absolute, or relative to `yaml_folder` or the
/// working folder) or "org/name[@revision]" whose snapshot is in the cache; each may end in "#expert=N";
/// then, divided by a "+", a LoRA adapter as a folder or name. A folder or file that really has such a name
/// comes first. Throws config with a sentence that says what to run when one of them is nowhere.
ModelLocation resolve_model(const std::string& reference, const std::filesystem::path& yaml_folder,
                            const Environment& environment);

}  // namespace moerge
