// moerge extract-lora MODEL OUT --base BASE: arguments, and the order in which things happen.

#include <fmt/format.h>

#include "moerge/base/error.h"
#include "moerge/base/output_folder.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/cli/folder_flags.h"
#include "moerge/cli/moe_source.h"
#include "moerge/merge/lora_folder.h"

namespace moerge {
namespace {

constexpr int64_t kMaxRank = 1 << 16;  // the largest that a reader of adapters takes

struct Arguments : FolderFlags {
  SourceOptions how;
  LoraOptions lora;
  std::string model, base, dtype;
};

void add_selection_flags(CLI::App& app, Arguments& a) {
  const char* const group = "Which modules";
  app.add_option("-i,--include-regex", a.lora.include,
                 "only modules in whose name it is found, again for each expression: -i mlp -i 'v_proj$'")
      ->allow_extra_args(false)
      ->group(group);
  app.add_option("-e,--exclude-regex", a.lora.exclude, "leave these out, again for each expression")
      ->allow_extra_args(false)
      ->group(group);
  app.add_option(
         "--save-module", a.lora.save_modules,
         "store it whole, in place of the base's: lm_head, model.layers.0.mlp.up_proj; again for each")
      ->allow_extra_args(false)
      ->group(group);
  app.add_flag("--embed-lora,!--no-embed-lora", a.lora.embed_lora,
               "decompose embeddings and lm_head as well, which are else stored whole where they differ")
      ->group(group);
  app.add_flag("--skip-undecomposable,!--no-skip-undecomposable", a.lora.skip_undecomposable,
               "leave out norms and biases, which are else stored whole where they differ")
      ->group(group);
}

void add_rank_flags(CLI::App& app, Arguments& a) {
  const char* const group = "What is kept of them";
  app.add_option("-r,--rank,--max-rank", a.lora.rank, "rank of each module, at most (32)")
      ->check(CLI::Range(int64_t{1}, kMaxRank))
      ->group(group);
  app.add_option("--sv-epsilon", a.lora.epsilon,
                 "singular values up to it count as 0, and ranks are lower accordingly (0)")
      ->check(CLI::NonNegativeNumber)
      ->group(group);
  app.add_flag("--distribute-scale,!--no-distribute-scale", a.lora.distribute_scale,
               "the roots of the singular values on both factors (on); else all of them on A")
      ->group(group);
  app.add_option("--dtype", a.dtype,
                 "float32, bfloat16 or float16, for all tensors (float32 if the base is, else the model's)")
      ->group(group);
  app.add_option("--random-seed", a.lora.seed,
                 "of the random projections that large matrices are looked at through (0)")
      ->check(whole_number)
      ->group(group);
}

void add_flags(CLI::App& app, Arguments& a) {
  app.add_option("--model,MODEL", a.model,
                 "the fine-tune: folder, GGUF file or model in the Hugging Face cache")
      ->required();
  app.add_option("--out-path,OUT", a.out, "folder to write the adapter to")->required();
  app.add_option("-b,--base,--base-model", a.base, "what MODEL was made of; BASE+OUT will be close to MODEL")
      ->required();
  add_rank_flags(app, a);
  add_selection_flags(app, a);
  app.add_flag("--overwrite", a.overwrite, "replace an adapter or model that OUT holds")->group("Files");
  app.add_flag("--write-model-card,!--no-write-model-card", a.write_card, "write README.md (on)")
      ->group("Files");
  add_cache_flag(app, a);
  add_thread_flag(app, a);
  add_report_flags(app, a);
}

DType parse_dtype(const std::string& text) {
  const DTypeInfo* found = find_dtype(text);
  if (!found || !is_weight_type(found->dtype))
    fail(ErrorKind::usage, "--dtype {}: float32, bfloat16 or float16 is expected", text);
  return found->dtype;
}

void dry_run(const LoraPlan& lora, const Arguments& a) {
  if (a.json) return print_result(json_text(lora_json(lora, false)));
  print_result(
      printable(lora_text(lora, false) + "\n" + (a.verbosity > 0 ? lora_module_text(lora, false) : "")) +
      "nothing was written (--dry-run)\n");
}

}  // namespace

int run_extract_lora(std::string_view program, const std::vector<std::string>& arguments) {
  Arguments a;
  CLI::App app(
      "Makes a LoRA adapter of a fine-tune: of each matrix the closest one of low rank to the difference "
      "between "
      "MODEL and its\nbase, by a truncated singular value decomposition. PEFT, vLLM and moerge (BASE+OUT) "
      "read it. "
      "Says how much of the\ndifference it holds, of each module in README.md and --json; a higher --rank "
      "holds "
      "more. Full fine-tunes of hundreds of\nsteps are rarely of low rank; LoRAs that were merged are, and "
      "come "
      "back whole at their rank. docs/extract-lora.md.\n\n"
      "examples:  moerge extract-lora teknium/OpenHermes-2.5-Mistral-7B hermes-lora --base "
      "mistralai/Mistral-7B-v0.1\n"
      "           moerge extract-lora tuned lora --base base --rank 64 --dry-run -v\n"
      "           moerge extract-lora tuned lora --base base -i mlp --embed-lora --json > lora.json\n",
      std::string(program));
  add_flags(app, a);
  if (!parse_arguments(app, arguments, program)) return 0;
  if (!a.dtype.empty()) a.lora.dtype = parse_dtype(a.dtype);
  Reporter reporter(a.level());
  const LoraFolderOptions options = {
      .out = a.out, .overwrite = a.overwrite, .write_card = a.write_card, .threads = a.threads};
  check_output_folder(options.out, options.overwrite);
  a.how.cache = a.cache;
  const ModelLocation model = fetch_model(a.model, a.how, reporter),
                      base = fetch_model(a.base, a.how, reporter);
  LoraPlan lora = plan_lora(a.model, model, a.base, base, a.lora);
  check_lora_folder(lora, options);
  for (const std::string& warning : lora.warnings) reporter.warning(warning);
  for (const std::string& note : lora.notes) reporter.info(note);
  if (a.dry_run) return dry_run(lora, a), 0;
  build_lora(lora, options, reporter);
  reporter.detail(lora_module_text(lora, true));
  if (a.json) print_result(json_text(lora_json(lora, true)));
  reporter.info(lora_text(lora, true));
  reporter.info(fmt::format("{} is ready: {}+{} for moerge, PeftModel.from_pretrained(base, \"{}\") for PEFT",
                            a.out, a.base, a.out, a.out));
  return 0;
}

}  // namespace moerge
