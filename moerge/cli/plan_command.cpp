// moerge plan CONFIG [OUT]: arguments, and the order in which things are found out.

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/export_source.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/cli/merge_source.h"
#include "moerge/cli/moe_flags.h"
#include "moerge/cli/plan_report.h"
#include "moerge/moe/build.h"
#include "moerge/moe/summary.h"

namespace moerge {
namespace {

void add_flags(CLI::App& app, MoeFlags& a) {
  add_config(app, a);
  app.add_option("OUT", a.out, "folder that the model would be written to: does it fit there?");
  add_moe_flags(app, a);
  add_shard_flag(app, a);
  add_cache_flag(app, a);
  add_thread_flag(app, a);
  add_json_flag(app, a);
}

// `check` throws what speaks against writing there.
std::optional<DiskForecast> look_at_disk(const Plan& plan, const FolderLayout& layout,
                                         const BuildOptions& options, const std::function<void()>& check) {
  if (options.out.empty()) return std::nullopt;
  DiskForecast disk = {options.out.string(), needed_space(plan, layout), free_space(options.out), ""};
  try {
    check();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::interrupted) throw;
    disk.problem = error.message();
  }
  return disk;
}

int plan_merge_command(const MoeFlags& a, ModelFetcher& fetcher, Reporter& reporter) {
  const BuildOptions options = a.build_options();
  const std::unique_ptr<MergePlan> merge =
      plan_merge_yaml(a.config, merge_options(a.how), options.out, Fetch::headers, fetcher);
  PlanForecast forecast = {.layout = lay_out_folder(merge->plan, options)};
  forecast.memory = build_memory(merge->plan, a.threads);
  forecast.disk = look_at_disk(merge->plan, forecast.layout, options,
                               [&] { check_folder(merge->plan, forecast.layout, merge->sources, options); });
  forecast.read.add(merge->plan);
  const Json positions = merge->model_config.value("max_position_embeddings", Json());
  const TokenizerFolder tokenizer(*merge);
  forecast.gguf =
      forecast_gguf(describe_merge(*merge, tokenizer.path(), std::filesystem::path(a.config).stem().string()),
                    merge->plan, positions.is_number_integer() ? positions.get<int64_t>() : 0);
  fetcher.forget_headers();
  if (a.json) return print_result(json_text(report_json(*merge, forecast))), 0;
  print_result(printable(report_text(*merge, forecast)));
  for (const std::string& warning : forecast.warnings(merge->warnings)) reporter.warning(warning);
  return 0;
}

// Every family with its reason, where choose_output() would throw. A name that no family has is an error like
// any other in the configuration.
[[noreturn]] void refuse_families(const std::vector<FamilyFit>& families, const MoeConfig& config,
                                  bool json) {
  const std::string error =
      config.architecture.empty()
          ? fmt::format("{}: these models cannot be combined, no output family takes them", config.file)
          : fmt::format("{}: these models cannot be combined as architecture \"{}\"",
                        config.architecture_place, config.architecture);
  if (json)
    print_result(json_text({{"error", error}, {"families", families_json(families, nullptr)}}));
  else
    print_result(printable(families_text(families, config, nullptr)));
  throw Error(ErrorKind::unsupported, error);
}

int plan_moe_command(const MoeFlags& a, ModelFetcher& fetcher, Reporter& reporter) {
  MoePlan moe = open_config(a, fetcher);
  std::vector<FamilyFit> families = judge_outputs(moe.models, moe.config, a.how.allow_crimes);
  const bool any_wanted = std::ranges::any_of(
      families, [&](const FamilyFit& family) { return is_wanted(*family.output, moe.config); });
  if (any_wanted && !find_chosen(families, moe.config)) refuse_families(families, moe.config, a.json);
  complete_plan(moe, a.plan_options());
  make_encoder(moe, a.how, a.threads);  // it has refusals of its own

  const BuildOptions options = a.build_options();
  const FolderLayout layout = lay_out_folder(moe.plan, options);
  PlanReport report = {.moe = moe, .forecast = {.layout = layout}, .families = std::move(families)};
  PlanForecast& forecast = report.forecast;
  forecast.memory = build_memory(moe, decoder_options(a.how, a.threads), a.threads);
  forecast.disk = look_at_disk(moe.plan, layout, options, [&] { check_build(moe, layout, options); });
  forecast.read.add(moe.plan);
  add_encoder_weights(moe, forecast.read);
  forecast.gguf = forecast_gguf(describe_moe(moe, std::filesystem::path(a.config).stem().string()), moe.plan,
                                moe.models.base->config.max_positions);
  fetcher.forget_headers();
  if (a.json) return print_result(json_text(report_json(report))), 0;
  print_result(printable(report_text(report)));
  for (const std::string& warning : forecast.warnings(moe.warnings)) reporter.warning(warning);
  return 0;
}

}  // namespace

int run_plan(std::string_view program, const std::vector<std::string>& arguments) {
  MoeFlags a;
  CLI::App app(
      "Says what `moerge moe`, `moerge merge` and `moerge gguf` would make of a YAML, before anything is "
      "written and without "
      "reading a weight:\nparameters, bytes read and written, memory of the build, size of the result as "
      "GGUF, memory to run it with llama.cpp,\nand of a mixture for every output family whether these models "
      "can become it.\n\n"
      "examples:  moerge plan moe.yaml\n"
      "           moerge plan moe.yaml /mnt/large/merge      # and whether it fits there\n"
      "           moerge plan moe.yaml --json                # the keys: docs/plan.md\n",
      std::string(program));
  add_flags(app, a);
  if (!parse_arguments(app, arguments, program)) return 0;
  Reporter reporter(Verbosity::normal);
  a.how.fetch = Fetch::headers;
  ModelFetcher fetcher(a.options(), reporter);
  if (std::error_code error; std::filesystem::exists(a.config, error) && makes_merge(a.config))
    return plan_merge_command(a, fetcher, reporter);
  return plan_moe_command(a, fetcher, reporter);
}

}  // namespace moerge
