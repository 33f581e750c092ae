#pragma once
// Carries out a planned mixture of experts: routers, weights, configuration, tokenizer, card; whole or not at
// all.

#include <memory>

#include "moerge/base/progress.h"
#include "moerge/model/prompt_encoder.h"
#include "moerge/moe/planner.h"
#include "moerge/plan/model_folder.h"

namespace moerge {

/// Refusals that need no work: an output that exists, lies in a source, or does not fit on the disk.
void check_build(const MoePlan& moe, const FolderLayout& layout, const BuildOptions& options);

/// Builds beside the output folder and renames at the end (FolderBuild). The routers are computed while the
/// experts are copied; moe.gates holds them afterwards, unless they were another part's work.
void build_moe(MoePlan& moe, const FolderLayout& layout, const BuildOptions& options,
               std::unique_ptr<PromptEncoder> encoder, Reporter& reporter);

}  // namespace moerge
