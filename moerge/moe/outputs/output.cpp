#include "moerge/moe/outputs/output.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "moerge/base/error.h"
#include "moerge/base/lower_case.h"
#include "moerge/base/suggest.h"
#include "moerge/moe/gates/gate.h"
#include "moerge/moe/outputs/grown.h"
#include "moerge/moe/outputs/list.h"

namespace moerge {
namespace {

// mergekit's order, in which the first that fits is taken.
constexpr std::array<const OutputArchitecture*, 5> kOutputs = {
    &kMixtralOutput, &kDeepseekMoeOutput, &kQwenMoeOutput, &kQwen3MoeOutput, &kGraniteMoeSharedOutput};

// A Mixtral's expert is a Mistral's FFN as well as a Llama's; as a model of its own it had to be called one
// of them.
bool goes_with(const Model& model, const Model& base) {
  const std::string &a = model.config.model_type, &b = base.config.model_type;
  const auto is_llama = [](const std::string& type) { return type == "llama" || type == "mistral"; };
  return a == b || ((model.origin || base.origin) && is_llama(a) && is_llama(b));
}

std::vector<const Model*> all_models(const MoeModels& models) {
  std::vector<const Model*> all = {models.base};
  all.insert(all.end(), models.experts.begin(), models.experts.end());
  all.insert(all.end(), models.shared_experts.begin(), models.shared_experts.end());
  return all;
}

std::string why_not_these_types(const OutputArchitecture& output, const MoeModels& models, bool allow_mixed) {
  for (const Model* model : all_models(models)) {
    if (std::ranges::find(output.inputs, model->config.model_type) == output.inputs.end())
      return fmt::format("{} takes {} models, and \"{}\" is a {} model", output.name,
                         fmt::join(output.inputs, " or "), model->name, model->config.model_type);
    if (!goes_with(*model, *models.base) && !allow_mixed)
      return fmt::format(
          "\"{}\" is a {} model and the base model \"{}\" a {} model; pass --allow-crimes to combine them "
          "all the same",
          model->name, model->config.model_type, models.base->name, models.base->config.model_type);
  }
  return {};
}

std::string why_not_these_shared_experts(const OutputArchitecture& output, const MoeConfig& config) {
  const auto& shared = config.shared_experts;
  if (!shared.empty() && output.shared_experts.most == 0)
    return fmt::format("{} has no shared experts: remove \"shared_experts\"", output.name);
  if (shared.size() < output.shared_experts.least)
    return fmt::format(
        "{} needs exactly one shared expert, which every token passes through: add \"shared_experts\" with "
        "one model (the base model, say)",
        output.name);
  if (shared.size() > output.shared_experts.most)
    return fmt::format("{} has room for one shared expert, and \"shared_experts\" lists {}", output.name,
                       shared.size());
  for (const ExpertConfig& expert : shared) {
    const bool has_prompts =
        !expert.positive_prompts.empty() || !expert.negative_prompts.empty() || !expert.data.empty();
    if (has_prompts && !output.routes_shared_experts())
      return fmt::format(
          "{} gives its shared expert every token at full weight, so prompts say nothing about it: "
          "remove the prompts of \"{}\" under \"shared_experts\"",
          output.name, expert.source_model);
    if (expert.positive_prompts.empty() && expert.data.empty() && output.routes_shared_experts() &&
        find_gate_mode(config.gate_mode)->needs != GateNeeds::nothing)
      return fmt::format(
          "{} weighs its shared expert by a router of its own, which gate_mode \"{}\" makes from prompts: "
          "give \"{}\" under \"shared_experts\" its \"positive_prompts\" (gate_mode \"random\" needs none)",
          output.name, config.gate_mode, expert.source_model);
  }
  return {};
}

std::string why_not_this_base(const OutputArchitecture& output, const Model& base) {
  const ModelConfig& config = base.config;
  for (const Weight& weight : list_weights(*base.architecture, config, base.checkpoint))
    if (!find_weight(*output.architecture, weight.role))
      return fmt::format("\"{}\" has \"{}\", and {} has no place for it (it would be lost)", base.name,
                         weight.name, output.name);
  if (config.mlp_bias)
    return fmt::format("\"{}\" has biases in its FFN (mlp_bias), and {} has none", base.name, output.name);
  if (!output.own_head_dim && config.heads * config.head_dim != config.hidden)
    return fmt::format(
        "the {} heads of \"{}\" have {} elements each, and {} knows only heads that make up "
        "the hidden_size of {}",
        config.heads, base.name, config.head_dim, output.name, config.hidden);
  if (!output.rope_types.empty() &&
      std::ranges::find(output.rope_types, config.rope.type) == output.rope_types.end())
    return fmt::format("the rotary embedding of \"{}\" is of type \"{}\", and the code of {} knows only {}",
                       base.name, config.rope.type, output.name, fmt::join(output.rope_types, ", "));
  return {};
}

}  // namespace

std::span<const OutputArchitecture* const> output_architectures() { return kOutputs; }

bool matches_name(const OutputArchitecture& output, std::string_view wanted) {
  const std::string name = lower_case(wanted);
  return lower_case(output.name).starts_with(name) || output.architecture->model_type == name ||
         lower_case(output.architecture->class_name) == name;
}

std::string why_not(const OutputArchitecture& output, const MoeModels& models, const MoeConfig& config,
                    bool allow_mixed) {
  std::string reason = why_not_these_types(output, models, allow_mixed);
  if (reason.empty()) reason = why_not_these_shared_experts(output, config);
  if (reason.empty()) reason = why_not_this_base(output, *models.base);
  return reason;
}

std::vector<FamilyFit> judge_outputs(const MoeModels& models, const MoeConfig& config, bool allow_mixed) {
  std::vector<FamilyFit> out;
  for (const OutputArchitecture* output : kOutputs)
    out.push_back({output, models.base->is_mixture() ? why_not_grown(*output, models, config, allow_mixed)
                                                     : why_not(*output, models, config, allow_mixed)});
  return out;
}

bool is_wanted(const OutputArchitecture& output, const MoeConfig& config) {
  return config.architecture.empty() ? !output.by_request_only : matches_name(output, config.architecture);
}

const OutputArchitecture& choose_output(const MoeModels& models, const MoeConfig& config, bool allow_mixed) {
  if (models.base->is_mixture()) return choose_grown_output(models, config, allow_mixed);
  std::string reasons;
  std::vector<std::string_view> names;
  bool known = config.architecture.empty();
  for (const OutputArchitecture* output : kOutputs) {
    names.push_back(output->name);
    if (!is_wanted(*output, config)) continue;
    known = true;
    const std::string reason = why_not(*output, models, config, allow_mixed);
    if (reason.empty()) return *output;
    reasons += fmt::format("\n  {}: {}", output->name, reason);
  }
  if (!known) {
    const std::string close = nearest(config.architecture, names);
    fail(ErrorKind::config, "{}: architecture \"{}\" is not supported{} (supported: {})",
         config.architecture_place, config.architecture,
         close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close), fmt::join(names, ", "));
  }
  fail(ErrorKind::unsupported, "{}: these models cannot be combined:{}", config.file, reasons);
}

}  // namespace moerge
