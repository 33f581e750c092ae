// moerge extract MODEL OUT --expert N: arguments, and the order in which things happen.

#include <fmt/format.h>

#include <charconv>

#include "moerge/base/error.h"
#include "moerge/base/output_folder.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/cli/folder_flags.h"
#include "moerge/cli/moe_source.h"
#include "moerge/cli/source_flags.h"
#include "moerge/model/tokenizer_files.h"
#include "moerge/moe/card.h"
#include "moerge/moe/extract.h"
#include "moerge/plan/folder_build.h"

namespace moerge {
namespace {

struct Arguments : FolderFlags {
  SourceOptions how;
  std::string model, expert;
};

void add_flags(CLI::App& app, Arguments& a) {
  app.add_option("MODEL", a.model,
                 "a mixture: folder, GGUF file or model in the Hugging Face cache; MODEL#expert=3 says which "
                 "as well")
      ->required();
  app.add_option("OUT", a.out, "folder to write the dense model to")->required();
  app.add_option("--expert", a.expert,
                 "which one: 0, 1, ..., or \"shared\" for what every token passes through")
      ->group("What is extracted");
  add_file_flags(app, a, "mixture");
  add_remote_flag(app, a.how);
  add_thread_flag(app, a);
  add_report_flags(app, a);
}

int64_t parse_expert(const std::string& text) {
  if (text == "shared") return kSharedExpert;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size() && value >= 0) return value;
  fail(ErrorKind::usage, "--expert {}: an expert's number (0, 1, ...) or \"shared\" is expected", text);
}

// The model's place, and its name with the expert in it.
std::pair<std::string, ModelLocation> find_expert(const Arguments& a, ModelFetcher& fetcher) {
  ModelLocation location = fetcher.look(a.model, {});
  if (location.expert && a.expert.empty()) return {a.model, location};
  if (a.expert.empty())
    fail(ErrorKind::usage, "which expert of \"{}\"? --expert 0 takes the first one", a.model);
  const int64_t expert = parse_expert(a.expert);
  if (location.expert && location.expert != expert)
    fail(ErrorKind::usage, "\"{}\" names another expert than --expert {}: say it once", a.model, a.expert);
  if (location.expert) return {a.model, location};
  location.expert = expert;
  return {a.model + (expert == kSharedExpert ? "#shared_expert" : fmt::format("#expert={}", expert)),
          location};
}

}  // namespace

int run_extract(std::string_view program, const std::vector<std::string>& arguments) {
  Arguments a;
  CLI::App app(
      "Takes one expert out of a mixture: a dense model with that expert's FFN in every layer and everything "
      "else (attention,\nnorms, embeddings) as the mixture has it. Of a mixture that moerge made of dense "
      "models: one of them, on the base's\nattention; expert 0 of a MoE whose base is its first expert is "
      "that model again, bit for bit.\n\n"
      "examples:  moerge extract mistralai/Mixtral-8x7B-v0.1 mixtral-expert-3 --expert 3\n"
      "           moerge extract merge code-model --expert 1 --verify\n"
      "           moerge extract qwen-moe.Q8_0.gguf shared --expert shared\n",
      std::string(program));
  add_flags(app, a);
  if (!parse_arguments(app, arguments, program)) return 0;
  Reporter reporter(a.level());
  const BuildOptions options = a.build_options();
  check_output_folder(options.out, options.overwrite);
  a.how.cache = a.cache;
  ModelFetcher fetcher(a.how, reporter);
  const auto [name, location] = find_expert(a, fetcher);
  ExtractPlan extract = plan_extract(name, location);
  for (const std::string& warning : extract.warnings) reporter.warning(warning);
  FolderLayout layout = lay_out_folder(extract.plan, options);
  check_folder(extract.plan, layout, {extract.model.get()}, options);
  if (a.dry_run) {
    print_result(a.json ? json_text(extract_json(extract, layout))
                        : dry_run_text(extract_text(extract, layout), extract.plan, a.verbosity > 0));
    fetcher.forget_headers();
    return 0;
  }
  reporter.info(extract_text(extract, layout));
  for (const Step& step : extract.plan.steps) reporter.detail("  " + describe(step));
  if (fetcher.any() && a.how.fetch == Fetch::used) {
    SourceBytes needed;
    needed.add(extract.plan);
    fetcher.fetch_ranges(needed, options.out, needed_space(extract.plan, layout));
  } else if (fetcher.any()) {
    fetcher.fetch_all(options.out, needed_space(extract.plan, layout));
    extract = plan_extract(name, find_expert(a, fetcher).second);
    layout = lay_out_folder(extract.plan, options);
  }
  FolderBuild build(extract.plan, layout, options, extract.model->config.raw.dump(), reporter);
  build.write(
      {.config = extract.model->config.raw,
       .write_tokenizer =
           [&](const std::filesystem::path& folder) { write_tokenizer_files(*extract.model, folder); },
       .card = expert_card(extract, folder_name(options.out)),
       .sources = {extract.model.get()}},
      {});
  fetcher.forget();
  if (a.json) print_result(json_text(extract_json(extract, layout)));
  reporter.info(fmt::format(
      "{} is ready: load it with transformers, vLLM or llama.cpp's convert_hf_to_gguf.py", a.out));
  return 0;
}

}  // namespace moerge
