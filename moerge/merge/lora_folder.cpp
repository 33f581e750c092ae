#include "moerge/merge/lora_folder.h"

#include <algorithm>
#include <numeric>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/interrupt.h"
#include "moerge/formats/safetensors_sink.h"
#include "moerge/hub/card_source.h"
#include "moerge/merge/lora_factors.h"
#include "moerge/merge/lora_selection.h"
#include "moerge/plan/execute.h"
#include "moerge/plan/model_folder.h"
#include "moerge/plan/source_watch.h"

namespace moerge {
namespace {

constexpr const char *kWeights = "adapter_model.safetensors", *kConfig = "adapter_config.json";

FolderLayout one_file(const Plan& plan) {
  Shard shard = {.file = kWeights, .tensors = std::vector<size_t>(plan.steps.size())};
  std::iota(shard.tensors.begin(), shard.tensors.end(), size_t{0});
  return {.shards = {std::move(shard)}};
}

// PEFT finds a base by this name: on the Hub, or on this machine.
std::string base_name(const Model& base) { return base.hub_name.empty() ? base.name : base.hub_name; }

std::vector<std::string> names_of(const LoraPlan& lora, bool (*wanted)(const LoraModule&)) {
  std::vector<std::string> out;
  for (const LoraModule& module : lora.modules)
    if (wanted(module)) out.push_back(module.name);
  return out;
}

bool has_factors(const LoraModule& module) { return module.rank > 0; }
bool is_saved(const LoraModule& module) { return module.form == LoraForm::whole && !module.is_bias(); }

bool is_vocabulary(const LoraPlan& lora, const LoraModule& module) {
  const Architecture& family = *lora.base->architecture;
  return module.tensor == weight_for(family, Role::embedding).name ||
         module.tensor == weight_for(family, Role::output).name;
}

// "none", or whose biases are in the file.
std::string bias_kind(const LoraPlan& lora) {
  const std::vector<std::string> wrapped = names_of(lora, has_factors);
  std::string kind = "none";
  for (const LoraModule& module : lora.modules) {
    if (!module.is_bias()) continue;
    if (std::ranges::find(wrapped, module.name) == wrapped.end()) return "all";
    kind = "lora_only";
  }
  return kind;
}

// Every tensor that is looked at, for what asks a plan for its files.
Plan sources_of(const LoraPlan& lora) {
  Plan out;
  for (const LoraModule& module : lora.modules)
    for (const StoredTensor* tensor : {module.model, module.base})
      out.steps.push_back({tensor->spec, Concat{{{.source = tensor, .noise_stream = {}}}}});
  return out;
}

}  // namespace

Json adapter_config_json(const LoraPlan& lora) {
  int64_t most = 0;
  for (const LoraModule& module : lora.modules) most = std::max(most, module.rank);
  Json lower = Json::object();
  for (const LoraModule& module : lora.modules)
    if (module.rank > 0 && module.rank < most) lower[module.name] = module.rank;
  const std::vector<std::string> saved = short_names(names_of(lora, is_saved), lora.all, false);
  Json out = {{"peft_type", "LORA"},
              {"task_type", "CAUSAL_LM"},
              {"base_model_name_or_path", base_name(*lora.base)},
              {"inference_mode", true},
              {"r", most},
              {"lora_alpha", most},
              {"rank_pattern", lower},
              {"alpha_pattern", lower},
              {"target_modules", short_names(names_of(lora, has_factors), lora.all, true)},
              {"modules_to_save", saved.empty() ? Json() : Json(saved)},
              {"bias", bias_kind(lora)},
              {"lora_dropout", 0.0},
              {"fan_in_fan_out", false},
              {"init_lora_weights", true},
              {"use_rslora", false},
              {"use_dora", false}};
  const auto vocabulary = [&](const LoraModule& module) { return is_vocabulary(lora, module); };
  if (lora.ties && std::ranges::any_of(lora.modules, vocabulary)) out["ensure_weight_tying"] = true;
  return out;
}

void check_lora_folder(const LoraPlan& lora, const LoraFolderOptions& options) {
  const Plan plan = adapter_tensors(lora);
  check_folder(plan, one_file(plan), {lora.model.get(), lora.base.get()},
               {.out = options.out, .overwrite = options.overwrite});
  for (const MappedFile* file : list_source_files(sources_of(lora)))
    if (is_within(file->file().path(), options.out))
      fail(ErrorKind::usage,
           "{} leads into the output {}, which would replace it: choose another output folder",
           file->file().path().string(), options.out.string());
}

namespace {

void write_tensors(const LoraPlan& lora, const OutputFolder& folder, int threads, Reporter& reporter) {
  const Plan plan = adapter_tensors(lora);
  SafetensorsSink sink(folder.path(), one_file(plan).shards, {});
  Progress progress(reporter, "weights", plan.totals().bytes);
  execute(plan, sink, {.threads = threads, .progress = &progress, .check = check_interrupted});
  progress.finish();
}

}  // namespace

void build_lora(LoraPlan& lora, const LoraFolderOptions& options, Reporter& reporter) {
  const Plan read = sources_of(lora);
  const SourceWatch sources(read);
  OutputFolder folder(options.out, options.overwrite);
  folder.clear([](const std::string&) { return false; });
  decompose(lora, options.threads, reporter);
  write_tensors(lora, folder, options.threads, reporter);
  write_file(folder.path() / kConfig, adapter_config_json(lora).dump(2) + "\n");
  if (options.write_card) write_file(folder.path() / kCardName, lora_card(lora, folder_name(options.out)));
  sources.check();
  folder.sync();
  check_interrupted();
  folder.commit();
}

}  // namespace moerge
