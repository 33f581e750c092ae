#include "moerge/cli/merge_run.h"

#include <fmt/format.h>

#include "moerge/base/error.h"
#include "moerge/base/output_folder.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/cli/source_flags.h"
#include "moerge/merge/summary.h"
#include "moerge/plan/folder_build.h"

namespace moerge {

MergeOptions MergeFlags::options() const {
  MergeOptions merge = merge_options(how);
  merge.truncate_embeddings = truncate_embeddings;
  return merge;
}

void add_merge_flags(CLI::App& app, MergeFlags& flags) {
  const std::string what = "What is merged";
  app.add_flag("--allow-crimes,!--no-allow-crimes", flags.how.allow_crimes,
               "merge models of different types, such as llama and mistral")
      ->group(what);
  app.add_option("--random-seed", flags.how.seed, "seed of what is chosen at random (0)")
      ->check(whole_number)
      ->group(what);
  app.add_flag("--unsafe-truncate-embeddings,!--no-unsafe-truncate-embeddings", flags.truncate_embeddings,
               "of embeddings of different sizes merge the rows that all have, whatever tokens they are of")
      ->group(what);
  add_file_flags(app, flags, "base");
  add_remote_flag(app, flags.how);
  add_thread_flag(app, flags);
  add_report_flags(app, flags);
}

void start_merge(MergeFlags& flags) {
  const BuildOptions options = flags.build_options();
  check_output_folder(options.out, options.overwrite);
  flags.how.cache = flags.cache;
  if (flags.dry_run) flags.how.fetch = Fetch::headers;
}

namespace {

void check_merge(const MergePlan& merge, const FolderLayout& layout, const BuildOptions& options) {
  check_folder(merge.plan, layout, merge.sources, options);
  if (merge.chat_template && !options.copy_tokenizer)
    fail(ErrorKind::usage,
         "{}: a chat_template is written into the tokenizer's files, which --no-copy-tokenizer leaves out: "
         "take one of the two away",
         merge.config.chat_template_place);
}

void build(const MergePlan& merge, const FolderLayout& layout, const BuildOptions& options,
           Reporter& reporter) {
  FolderCard card;
  if (merge.tokenizer) card = merge_card(merge, folder_name(options.out), options.copy_tokenizer);
  if (options.write_card && !card.no_license.empty()) reporter.info(card.no_license);
  const std::string recipe =
      fmt::format("{}\n{}\n{}\n", merge.config.yaml, merge.model_config.dump(), options.copy_tokenizer) +
      merge.chat_template.value_or("");
  FolderBuild work(merge.plan, layout, options, recipe, reporter);
  std::function<void(const std::filesystem::path&)> write_tokenizer;
  if (merge.tokenizer)
    write_tokenizer = [&](const std::filesystem::path& folder) { write_merge_tokenizer(merge, folder); };
  work.write({.config = merge.model_config,
              .write_tokenizer = write_tokenizer,
              .card = merge.tokenizer ? render_card(card.card) : "",
              .files = {{"mergekit_config.yml", merge.config.yaml}},
              .sources = merge.sources},
             {});
}

}  // namespace

void write_merge(const MergePlan& merge, const MergeFlags& flags, ModelFetcher& fetcher, Reporter& reporter) {
  const BuildOptions options = flags.build_options();
  for (const std::string& warning : merge.warnings) reporter.warning(warning);
  const FolderLayout layout = lay_out_folder(merge.plan, options);
  check_merge(merge, layout, options);
  if (flags.dry_run) {
    print_result(flags.json ? json_text(merge_json(merge, layout))
                            : dry_run_text(merge_text(merge, layout), merge.plan, flags.verbosity > 0));
    fetcher.forget_headers();
    return;
  }
  reporter.info(merge_text(merge, layout));
  for (const Step& step : merge.plan.steps) reporter.detail("  " + describe(step));
  build(merge, layout, options, reporter);
  if (flags.json) print_result(json_text(merge_json(merge, layout)));
  fetcher.forget();
  reporter.info(merge.tokenizer ? fmt::format("{} is ready: load it with transformers, vLLM or llama.cpp's "
                                              "convert_hf_to_gguf.py",
                                              flags.out)
                                : fmt::format("{} is ready", flags.out));
}

}  // namespace moerge
