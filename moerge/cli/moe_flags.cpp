#include "moerge/cli/moe_flags.h"

#include "moerge/base/error.h"
#include "moerge/cli/arguments.h"

namespace moerge {

SourceOptions MoeFlags::options() const {
  SourceOptions out = how;
  out.cache = cache;
  return out;
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
  app.add_flag("--allow-crimes,!--no-allow-crimes", flags.how.allow_crimes,
               "combine models of different types, such as llama and mistral")
      ->group(what);
  app.add_flag("--i-understand-this-is-not-useful-without-training", flags.how.allow_all_same,
               "allow all experts to be one model")
      ->group(what);
  app.add_option("--random-seed", flags.how.seed, "seed of random gates and noise (0)")
      ->check(whole_number)
      ->group(what);
}

MoePlan open_config(const MoeFlags& flags) {
  std::error_code error;
  if (!std::filesystem::exists(flags.config, error))
    fail(ErrorKind::usage, "CONFIG \"{}\": there is no such file", flags.config);
  return open_yaml(flags.config, flags.options());
}

}  // namespace moerge
