#include "moerge/cli/moe_flags.h"

#include "moerge/cli/arguments.h"
#include "moerge/cli/source_flags.h"

namespace moerge {

SourceOptions MoeFlags::options() const {
  SourceOptions all = how;
  all.cache = cache;
  return all;
}

PlanOptions MoeFlags::plan_options() const { return moerge::plan_options(how, layout()); }

void add_config(CLI::App& app, MoeFlags& flags) {
  app.add_option("CONFIG", flags.config, "YAML file: base_model, experts, gate_mode, ...")->required();
}

void add_moe_flags(CLI::App& app, MoeFlags& flags) {
  const std::string what = "What is built";
  app.add_option("--layout", flags.layout_name,
                 "expert tensors: per-expert (every reader knows it) or fused (transformers 5's own)")
      ->check(CLI::IsMember({"per-expert", "fused"}))
      ->group(what);
  add_build_flags(app, flags.how, what);
}

MoePlan open_config(const MoeFlags& flags, ModelFetcher& fetcher) {
  check_config_exists(flags.config);
  return open_yaml(flags.config, flags.options(), flags.out, fetcher);
}

}  // namespace moerge
