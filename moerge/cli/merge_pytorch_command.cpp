// moerge merge-pytorch CONFIG OUT: files of tensors that are no models.

#include <fmt/format.h>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/cli/foreign_flags.h"
#include "moerge/cli/merge_run.h"

namespace moerge {
namespace {

// A file as a model without a configuration.
struct StateDict {
  Checkpoint checkpoint;
  Model model;

  StateDict(const std::string& name, const std::filesystem::path& file)
      : checkpoint(Checkpoint::open_file(file)),
        model(name, file, Json::object(), checkpoint.tensors(), Families::any) {}
};

OpenModel open_files_of(const std::filesystem::path& folder) {
  return [folder](const std::string& name) {
    const std::filesystem::path file = folder / name;
    std::error_code error;
    if (!std::filesystem::is_regular_file(file, error))
      fail(ErrorKind::config, "\"{}\": there is no such file ({})", name, file.string());
    const auto opened = std::make_shared<const StateDict>(name, file);
    return OpenedModel{{opened, &opened->model}};
  };
}

}  // namespace

int run_merge_pytorch(std::string_view program, const std::vector<std::string>& arguments) {
  MergeFlags a;
  std::string config;
  bool intersection = false, all = false;
  CLI::App app(
      "Merges files of tensors (.safetensors or PyTorch's .bin and .pt) that are no language models, by the "
      "names "
      "of their\ntensors. CONFIG is a YAML as for \"moerge merge\", with files for models, relative to it; "
      "no "
      "slices, no tokenizer.\n\n"
      "example:  merge_method: linear\n"
      "          models:\n"
      "            - {model: one.safetensors, parameters: {weight: 0.5}}\n"
      "            - {model: two.bin, parameters: {weight: 0.5}}\n",
      std::string(program));
  app.add_option("CONFIG", config, "YAML file: merge_method, models, parameters, ...")->required();
  app.add_option("OUT", a.out, "folder to write model.safetensors to")->required();
  auto* only_common =
      app.add_flag("-i,--tensor-intersection", intersection, "merge the tensors that all files have");
  app.add_flag("-u,--tensor-union", all, "merge every tensor of those files that have it")
      ->excludes(only_common);
  add_merge_flags(app, a);
  const ForeignFlags foreign(app, "mergekit-pytorch");
  if (!parse_arguments(app, arguments, program)) return 0;
  Reporter reporter(a.level());
  foreign.report(reporter);
  start_merge(a);
  check_config_exists(config);
  MergeOptions options = a.options();
  if (intersection) options.missing = MissingTensors::intersection;
  if (all) options.missing = MissingTensors::union_;
  ModelFetcher fetcher(a.how, reporter);
  write_merge(*plan_state_dicts(parse_merge_config(read_file(config, kMaxMergeConfig), config),
                                open_files_of(std::filesystem::path(config).parent_path()), options),
              a, fetcher, reporter);
  return 0;
}

}  // namespace moerge
