// What an adapter is and how close it comes, in words, as JSON and as a model card.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "moerge/base/file.h"
#include "moerge/hub/card.h"
#include "moerge/merge/lora_factors.h"
#include "moerge/merge/lora_folder.h"

namespace moerge {
namespace {

std::string percent(double share) { return fmt::format("{:.2f} %", 100 * share); }

int64_t factor_count(const LoraModule& module) {
  return module.rank * (module.shape()[0] + module.shape()[1]);
}

// What was decomposed, the worst first; of equal ones in the model's order.
std::vector<const LoraModule*> worst_first(const LoraPlan& lora) {
  std::vector<const LoraModule*> out;
  for (const LoraModule& module : lora.modules)
    if (module.form != LoraForm::whole) out.push_back(&module);
  std::ranges::stable_sort(out, std::greater(), [](const LoraModule* module) { return module->error(); });
  return out;
}

struct Sums {
  int64_t factors = 0, whole = 0;     // modules (biases are some of their own)
  int64_t parameters = 0, bytes = 0;  // of the adapter
  int64_t whole_bytes = 0, most_rank = 0;
};

Sums sum_up(const LoraPlan& lora) {
  Sums out;
  for (const Step& step : adapter_tensors(lora).steps) {
    out.parameters += step.out.elements();
    out.bytes += step.out.bytes();
    if (std::holds_alternative<Concat>(step.how)) out.whole_bytes += step.out.bytes();
  }
  for (const LoraModule& module : lora.modules) {
    (module.form == LoraForm::whole ? out.whole : out.factors)++;
    out.most_rank = std::max(out.most_rank, module.rank);
  }
  return out;
}

std::string last_parts(const LoraPlan& lora, bool whole) {
  std::vector<std::string> parts;
  for (const LoraModule& module : lora.modules) {
    if ((module.form == LoraForm::whole) != whole) continue;
    const std::string part =
        module.name.substr(module.name.rfind('.') + 1) + (module.is_bias() ? ".bias" : "");
    if (std::ranges::find(parts, part) == parts.end()) parts.push_back(part);
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string left_out(const LoraPlan& lora) {
  std::vector<std::string> out;
  if (lora.equal > 0) out.push_back(fmt::format("{} equal in both", lora.equal));
  if (lora.unselected > 0) out.push_back(fmt::format("{} not selected", lora.unselected));
  if (!lora.skipped.empty())
    out.push_back(
        fmt::format("{} that differ and cannot be decomposed (--skip-undecomposable)", lora.skipped.size()));
  return fmt::format("{}", fmt::join(out, ", "));
}

std::string whole_text(const LoraPlan& lora, const Sums& sums) {
  std::string out = fmt::format("\n  whole     {} tensor{}, {}: {}", sums.whole, sums.whole == 1 ? "" : "s",
                                human_bytes(sums.whole_bytes), last_parts(lora, true));
  if (2 * sums.whole_bytes > sums.bytes && !lora.options.embed_lora)
    out +=
        "\n            (most of the adapter: --embed-lora decomposes embeddings and lm_head, --exclude-regex "
        "leaves them out)";
  return out;
}

}  // namespace

std::string lora_text(const LoraPlan& lora, bool decomposed) {
  const Sums sums = sum_up(lora);
  std::string out = fmt::format(
      "LoRA adapter of rank {}{}, {}: {} parameters, {}{}\n  from      {} minus {} ({}, {} layers)\n"
      "  low rank  {} modules: {}",
      decomposed ? "" : "up to ", sums.most_rank, info(lora.dtype).name(), human_count(sums.parameters),
      decomposed ? "" : "at most ", human_bytes(sums.bytes), lora.model->name, lora.base->name,
      lora.base->architecture->model_type, lora.base->config.layers, sums.factors, last_parts(lora, false));
  if (sums.whole > 0) out += whole_text(lora, sums);
  if (const std::string rest = left_out(lora); !rest.empty()) out += "\n  left out  " + rest + " (tensors)";
  if (!decomposed) return out;
  const LoraCloseness close = closeness(lora);
  const LoraModule& worst = *worst_first(lora).front();
  return out + fmt::format("\n  error     {} of the difference; {} of its energy kept; worst {}: {}",
                           percent(close.error), percent(close.kept_energy), worst.name,
                           percent(worst.error()));
}

std::string lora_module_text(const LoraPlan& lora, bool decomposed) {
  std::string out;
  for (const LoraModule& module : lora.modules) {
    out += fmt::format("  {}  {}  ", module.tensor, to_string(module.shape()));
    if (module.form == LoraForm::whole)
      out += "whole\n";
    else if (decomposed)
      out += fmt::format("rank {}, error {}\n", module.rank, percent(module.error()));
    else
      out += fmt::format("rank up to {}, {} numbers\n", module.rank, factor_count(module));
  }
  return out;
}

Json lora_json(const LoraPlan& lora, bool decomposed) {
  const Sums sums = sum_up(lora);
  Json modules = Json::array(), whole = Json::array();
  for (const LoraModule& module : lora.modules) {
    if (module.form == LoraForm::whole) {
      whole.push_back({{"tensor", module.tensor}, {"shape", module.shape()}});
      continue;
    }
    Json row = {{"module", module.name},
                {"shape", module.shape()},
                {"rank", module.rank},
                {"parameters", factor_count(module)}};
    if (decomposed) {
      row["difference"] = std::sqrt(module.difference);
      row["error"] = module.error();
      row["kept_energy"] = module.kept_energy();
    }
    modules.push_back(std::move(row));
  }
  Json out = {{"model", lora.model->name},
              {"base_model", lora.base->name},
              {"rank", sums.most_rank},
              {"dtype", std::string(info(lora.dtype).name())},
              {"parameters", sums.parameters},
              {"bytes", sums.bytes},
              {"modules", std::move(modules)},
              {"whole", std::move(whole)},
              {"left_out",
               {{"equal", lora.equal}, {"not_selected", lora.unselected}, {"undecomposable", lora.skipped}}},
              {"config", adapter_config_json(lora)},
              {"warnings", lora.warnings}};
  if (!decomposed) return out;
  const LoraCloseness close = closeness(lora);
  out["error"] = close.error;
  out["kept_energy"] = close.kept_energy;
  return out;
}

namespace {

CardTable module_table(const LoraPlan& lora) {
  CardTable out = {.columns = {"Module", "Shape", "Rank", "Error", "Energy kept"}, .first_number = 2};
  for (const LoraModule* module : worst_first(lora))
    out.rows.push_back({card_code(module->name), card_text(to_string(module->shape())),
                        card_text(std::to_string(module->rank)), card_text(percent(module->error())),
                        card_text(percent(module->kept_energy()))});
  return out;
}

CardTable number_table(const LoraPlan& lora, const Sums& sums) {
  const LoraCloseness close = closeness(lora);
  CardTable out = {.columns = {"", ""}};
  const auto add = [&](const char* what, std::string value) {
    out.rows.push_back({card_text(what), card_text(std::move(value))});
  };
  add("rank", std::to_string(sums.most_rank));
  add("parameters", human_count(sums.parameters));
  add("weights", fmt::format("{}, {}", info(lora.dtype).name(), human_bytes(sums.bytes)));
  add("error", percent(close.error) + " of the difference");
  add("energy kept", percent(close.kept_energy));
  return out;
}

std::string usage_code(const LoraPlan& lora, const std::string& name) {
  const Json base = adapter_config_json(lora)["base_model_name_or_path"];
  return fmt::format(
      "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
      "base = AutoModelForCausalLM.from_pretrained({}, dtype=\"auto\")\n"
      "model = PeftModel.from_pretrained(base, {})\n",
      quoted_string(base.get<std::string>()), quoted_string(name));
}

CardText left_out_sentence(const LoraPlan& lora) {
  const std::string rest = left_out(lora);
  return {card_text(rest.empty() ? "Every tensor of the model is in it."
                                 : "Tensors that it leaves out: " + rest + ".")};
}

}  // namespace

std::string lora_card(const LoraPlan& lora, const std::string& name) {
  const Sums sums = sum_up(lora);
  const Model &model = *lora.model, &base = *lora.base;
  Card card = {
      .title = name, .base_model_relation = "adapter", .library_name = "peft", .tags = {"lora", "moerge"}};
  if (!base.hub_name.empty()) card.base_models.push_back(base.hub_name);
  card.intro.push_back({card_text("A LoRA adapter that brings "), card_link(base.name, base.hub_name),
                        card_text(" close to "), card_link(model.name, model.hub_name),
                        card_text(", extracted with moerge: of each matrix, the truncated singular value "
                                  "decomposition of the difference between the two models.")});
  card.numbers = number_table(lora, sums);
  if (sums.whole > 0)
    card.sections.push_back(
        {.heading = "Stored whole",
         .paragraphs = {
             {card_text(fmt::format("{} of {}: ", human_bytes(sums.whole_bytes), human_bytes(sums.bytes))),
              card_code(last_parts(lora, true)), card_text(".")}}});
  card.sections.push_back(
      {.heading = "How close it is",
       .paragraphs =
           {{card_text(
                "Error: Frobenius norm of what the adapter leaves of a module's difference, in parts of "
                "that of the difference; the factors are taken as they are stored. Energy kept: the "
                "squared singular values in the adapter, in parts of all. The worst first.")},
            left_out_sentence(lora)},
       .table = module_table(lora)});
  card.usage.push_back({.heading = "With PEFT", .blocks = {{"python", usage_code(lora, name)}}});
  card.usage.push_back({.heading = "With moerge",
                        .blocks = {{"bash", fmt::format("moerge gguf {} model.gguf --type q8_0\n",
                                                        shell_word(base.name + "+" + name))}}});
  return render_card(card);
}

}  // namespace moerge
