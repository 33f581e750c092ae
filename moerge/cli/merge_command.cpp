// moerge merge CONFIG OUT: arguments, and the order in which things happen.

#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/cli/foreign_flags.h"
#include "moerge/cli/merge_run.h"

namespace moerge {

int run_merge(std::string_view program, const std::vector<std::string>& arguments) {
  MergeFlags a;
  std::string config;
  CLI::App app(
      "Merges models into one of the same size, or stacks their layers: SLERP, TIES, DARE, task arithmetic "
      "and the other\nmethods of mergekit-yaml, from the same YAML (\"moerge list methods\" says what each "
      "takes; docs/merge.md). Several\ndocuments with a \"name\" build on each other.\n\n"
      "example:  merge_method: slerp\n"
      "          base_model: mlabonne/AlphaMonarch-7B\n"
      "          models:\n"
      "            - model: mlabonne/AlphaMonarch-7B\n"
      "            - model: beowolx/CodeNinja-1.0-OpenChat-7B\n"
      "          parameters:\n"
      "            t: [0, 0.5, 0.3, 0.7, 1]      # along the layers\n"
      "          dtype: bfloat16\n",
      std::string(program));
  app.add_option("CONFIG", config, "YAML file: merge_method, models or slices, parameters, ...")->required();
  app.add_option("OUT", a.out, "folder to write the model to")->required();
  add_merge_flags(app, a);
  const ForeignFlags foreign(app, "mergekit-yaml");
  if (!parse_arguments(app, arguments, program)) return 0;
  Reporter reporter(a.level());
  foreign.report(reporter);
  start_merge(a);
  check_config_exists(config);
  ModelFetcher fetcher(a.how, reporter);
  write_merge(*plan_merge_yaml(config, a.options(), a.out, a.how.fetch, fetcher), a, fetcher, reporter);
  return 0;
}

}  // namespace moerge
