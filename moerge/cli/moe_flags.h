#pragma once
// Flags of the commands that plan a mixture of experts.

#include <CLI/CLI.hpp>

#include "moerge/cli/folder_flags.h"
#include "moerge/cli/moe_source.h"

namespace moerge {

struct MoeFlags : FolderFlags {
  std::string config, layout_name = "per-expert";
  SourceOptions how;  // its cache is set by options()

  SourceOptions options() const;
  Layout layout() const { return layout_name == "fused" ? Layout::fused : Layout::per_expert; }
  PlanOptions plan_options() const;
};

/// CONFIG.
void add_config(CLI::App& app, MoeFlags& flags);
/// The group "What is built".
void add_moe_flags(CLI::App& app, MoeFlags& flags);

/// open_yaml() of CONFIG; throws usage when it is no file.
MoePlan open_config(const MoeFlags& flags, ModelFetcher& fetcher);

}  // namespace moerge
