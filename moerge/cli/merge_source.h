#pragma once
// From a merge YAML on the command line to its plan, for every command that takes one.

#include <filesystem>
#include <memory>
#include <string>

#include "moerge/cli/moe_source.h"
#include "moerge/merge/stages.h"
#include "moerge/moe/card.h"

namespace moerge {

/// Opens models by their references, each once, with Families::any: folders relative to `yaml_folder`, the
/// cache, the Hub (what is needed to plan). `fetcher` must outlive the result.
OpenModel open_models_of(const std::filesystem::path& yaml_folder, ModelFetcher& fetcher);

/// What the flags say that commands for mixtures have as well.
MergeOptions merge_options(const SourceOptions& options);

/// Whether the result of a YAML is a merge rather than a mixture of experts. Throws config for a file whose
/// documents do not fit together.
bool makes_merge(const std::filesystem::path& yaml);

/// The plan of a YAML's result, its models fetched where they are not here: only once all of them fit and the
/// whole plan is sound, and `out` (empty: nothing is written) has room for it. Throws what parsing,
/// resolving, planning and fetching throw, and config for the YAML of a mixture of experts.
std::unique_ptr<MergePlan> plan_merge_yaml(const std::filesystem::path& yaml, const MergeOptions& options,
                                           const std::filesystem::path& out, Fetch fetch,
                                           ModelFetcher& fetcher);

/// The same of a text; `file` is its name for messages, and models are looked for in `folder`.
std::unique_ptr<MergePlan> plan_merge_text(const std::string& yaml, const std::string& file,
                                           const std::filesystem::path& folder, const MergeOptions& options,
                                           const std::filesystem::path& out, Fetch fetch,
                                           ModelFetcher& fetcher);

/// README.md, as any later command would write it of the folder. `with_tokenizer`: the folder will have one.
FolderCard merge_card(const MergePlan& merge, const std::string& name, bool with_tokenizer);

}  // namespace moerge
