// moerge moe CONFIG OUT: arguments, and the order in which things happen.

#include <fmt/format.h>

#include <charconv>

#include "moerge/base/error.h"
#include "moerge/base/output_folder.h"
#include "moerge/base/parallel.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/cli/foreign_flags.h"
#include "moerge/cli/moe_flags.h"
#include "moerge/cli/source_flags.h"
#include "moerge/moe/build.h"
#include "moerge/moe/summary.h"
#include "moerge/plan/folder_build.h"

namespace moerge {
namespace {

struct PartFlags {
  std::optional<std::string> part;
  bool join = false;
};

void add_part_flags(CLI::App& app, PartFlags& flags) {
  const std::string group = "On several machines (docs/parts.md)";
  auto* part =
      app.add_option("--part", flags.part,
                     "K/N: write the Kth of N parts of the files into a folder that all machines see")
          ->group(group);
  app.add_flag("--join", flags.join, "all parts are written: complete the model")
      ->group(group)
      ->excludes(part);
}

BuildPart parse_part(const std::string& text) {
  BuildPart part;
  const size_t slash = text.find('/');
  const auto read = [](std::string_view digits, int64_t& value) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  if (slash == std::string::npos || !read(std::string_view(text).substr(0, slash), part.number) ||
      !read(std::string_view(text).substr(slash + 1), part.count) || part.number < 1 ||
      part.number > part.count || part.count > kMaxParts)
    fail(ErrorKind::usage,
         "--part {}: K/N is expected, like 2/8: a number from 1 to N, and how many parts there are (at most "
         "{})",
         text.empty() ? "\"\"" : text, kMaxParts);
  return part;
}

// What a part is of the whole.
Json part_json(const MoePlan& moe, const FolderLayout& layout, const BuildPart& part) {
  const std::vector<TensorSpec> specs = moe.plan.specs();
  const std::vector<bool> mine = shards_of_part(specs, layout.shards, part);
  Json files = Json::array();
  int64_t bytes = 0;
  for (size_t s = 0; s < mine.size(); s++)
    if (mine[s]) files.push_back(layout.shards[s].file), bytes += layout.shards[s].data_bytes(specs);
  return {{"number", part.number}, {"count", part.count}, {"files", std::move(files)}, {"bytes", bytes}};
}

std::string summary_text(const MoePlan& moe, const FolderLayout& layout, const BuildPart& part) {
  std::string out = plan_text(moe, layout);
  if (part.count == 0) return out;
  const Json json = part_json(moe, layout, part);
  const size_t files = json["files"].size(), all = layout.shards.size();
  out += fmt::format("\n  part      {} of {}: ", part.number, part.count);
  return out + (files > 0
                    ? fmt::format("{} of the {} file{}, {}", files, all, all == 1 ? "" : "s",
                                  human_bytes(json["bytes"].get<int64_t>()))
                    : fmt::format("nothing to do, there {} {} file{} (--out-shard-size makes smaller ones)",
                                  all == 1 ? "is" : "are", all, all == 1 ? "" : "s"));
}

std::string result_json(const MoePlan& moe, const FolderLayout& layout, const BuildPart& part) {
  Json out = plan_json(moe, layout);
  if (part.count > 0) out["part"] = part_json(moe, layout, part);
  return json_text(out);
}

void add_flags(CLI::App& app, MoeFlags& a, PartFlags& parts) {
  add_config(app, a);
  app.add_option("OUT", a.out, "folder to write the model to")->required();
  add_moe_flags(app, a);
  add_file_flags(app, a, "base");
  add_remote_flag(app, a.how);
  add_part_flags(app, parts);
  add_thread_flag(app, a);
  add_device_flags(app, a.how, "hidden states are");
  add_report_flags(app, a);
}

}  // namespace

int run_moe(std::string_view program, const std::vector<std::string>& arguments) {
  MoeFlags a;
  CLI::App app(
      "Makes a mixture of experts: attention, norms and embeddings from the base model, the FFN of every "
      "layer from\n"
      "each expert, routers from their prompts. Writes a checkpoint that transformers, vLLM and llama.cpp "
      "load.\n\n"
      "example:  base_model: mlabonne/AlphaMonarch-7B        # a folder, or a model in the Hugging Face "
      "cache\n"
      "          experts:\n"
      "            - source_model: beowolx/CodeNinja-1.0-OpenChat-7B\n"
      "              positive_prompts: [code, python, programming]\n"
      "            - source_model: mlabonne/NeuralDaredevil-7B\n"
      "              positive_prompts: [reason, math, solve]\n",
      std::string(program));
  PartFlags parts;
  add_flags(app, a, parts);
  const ForeignFlags foreign(app, "mergekit-moe");
  if (!parse_arguments(app, arguments, program)) return 0;
  check_device_flags(a.how);

  Reporter reporter(a.level());
  foreign.report(reporter);

  BuildOptions options = a.build_options();
  if (parts.part) options.part = parse_part(*parts.part);
  options.join = parts.join;
  options.routers_with = fmt::format("{} {}", a.how.four_bit, a.how.eight_bit);
  if (options.part.count > 0 && options.verify)
    fail(ErrorKind::usage, "--verify belongs to --join: a part is no model yet");
  check_output_folder(options.out, options.overwrite);
  check_device(decoder_options(a.how, a.threads).device);
  if (a.dry_run) a.how.fetch = Fetch::headers;
  ModelFetcher fetcher(a.options(), reporter);
  MoePlan moe = open_config(a, fetcher);
  complete_plan(moe, a.plan_options());
  for (const std::string& warning : moe.warnings) reporter.warning(warning);
  const FolderLayout layout = lay_out_folder(moe.plan, options);
  check_build(moe, layout, options);
  // Made for a dry run as well: it has refusals of its own.
  std::unique_ptr<PromptEncoder> encoder = make_encoder(moe, a.how, a.threads);
  if (a.dry_run) {
    print_result(a.json ? result_json(moe, layout, options.part)
                        : dry_run_text(summary_text(moe, layout, options.part), moe.plan, a.verbosity > 0));
    fetcher.forget_headers();
    return 0;
  }
  reporter.info(summary_text(moe, layout, options.part));
  for (const Step& step : moe.plan.steps) reporter.detail("  " + describe(step));
  build_moe(moe, layout, options, std::move(encoder), reporter);
  if (a.json) print_result(result_json(moe, layout, options.part));
  if (options.part.count > 0) return 0;
  fetcher.forget();
  report_routers(moe, reporter);
  reporter.info(
      fmt::format("{} is ready: load it with transformers{}, vLLM or llama.cpp's convert_hf_to_gguf.py",
                  a.out, moe.output->remote_code ? " (trust_remote_code)" : ""));
  return 0;
}

}  // namespace moerge
