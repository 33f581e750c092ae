#pragma once
// Where a model reference points: a folder, a GGUF file, or a snapshot in the Hugging Face cache
// (https://huggingface.co/docs/huggingface_hub/guides/manage-cache).

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "moerge/hub/name.h"
#include "moerge/hub/settings.h"
#include "moerge/model/model.h"

namespace moerge {

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
/// `elsewhere` is asked first for names of which the cache has nothing or only a part; what it throws is
/// added to that sentence.
using FindElsewhere = std::function<std::filesystem::path(const HubName&)>;
ModelLocation resolve_model(const std::string& reference, const std::filesystem::path& yaml_folder,
                            const Environment& environment, const FindElsewhere& elsewhere = {});

/// Does the folder hold all files of a model (or adapter) that its index names? Not whether they are whole.
bool has_weights(const std::filesystem::path& folder);

/// Which repositories a reference names, taken by its letters alone: paths stay empty, and so do names that
/// are none on the Hub.
ModelLocation name_repositories(const std::string& reference);

}  // namespace moerge
