#include "moerge/moe/summary.h"

#include <fmt/format.h>

#include "moerge/base/file.h"
#include "moerge/model/mixture.h"
#include "moerge/moe/grow.h"

namespace moerge {
namespace {

struct Share {
  int64_t tensors = 0, bytes = 0;
};

std::string describe_changes(const ExpertConfig& expert) {
  return (expert.noise_scale != 0 ? fmt::format(", noise {}", expert.noise_scale) : "") +
         (expert.residual_scale != 1 ? fmt::format(", down x {}", expert.residual_scale) : "");
}

// How much of the output comes from one group of parts.
Share share_of(const MoePlan& moe, int64_t group) {
  Share share;
  for (const Step& step : moe.plan.steps)
    if (const Concat* concat = std::get_if<Concat>(&step.how))
      for (const Part& part : concat->parts)
        if (part.group == group) {
          share.tensors++;
          share.bytes += byte_size(step.out.dtype, part.source->spec.elements());
        }
  return share;
}

std::string count_of(const std::vector<std::string>& prompts) {
  if (prompts.empty()) return "no prompts";
  return fmt::format("{} prompt{}", prompts.size(), prompts.size() == 1 ? "" : "s");
}

// What a router's rows are made from.
std::string describe_texts(const MoePlan& moe) {
  std::vector<std::string> parts;
  if (moe.prompts > 0) parts.push_back(fmt::format("{} prompts, {} tokens", moe.prompts, moe.prompt_tokens));
  if (moe.data_sequences > 0)
    parts.push_back(fmt::format("{} sequences of data, {} tokens", moe.data_sequences, moe.data_tokens));
  return parts.empty() ? "" : fmt::format(" ({})", fmt::join(parts, "; "));
}

}  // namespace

std::string describe_prompts(const MoePlan& moe, size_t index) {
  const size_t routed = moe.config.experts.size();
  const ExpertConfig& expert =
      index < routed ? moe.config.experts[index] : moe.config.shared_experts[index - routed];
  const int64_t data_tokens = moe.expert_data_tokens[index];
  std::vector<std::string> parts;
  if (!expert.positive_prompts.empty() || data_tokens == 0)
    parts.push_back(count_of(expert.positive_prompts));
  if (!expert.negative_prompts.empty() && !(expert.positive_prompts.empty() && data_tokens == 0))
    parts.push_back(fmt::format("{} negative", expert.negative_prompts.size()));
  if (data_tokens > 0) parts.push_back(fmt::format("{} tokens of text", data_tokens));
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string describe_sharing(const MoePlan& moe, size_t shared_expert) {
  if (!moe.output->routes_shared_experts()) return "added for every token";
  return fmt::format("weighed for every token by a router of its own ({})",
                     describe_prompts(moe, moe.config.experts.size() + shared_expert));
}

std::string plan_text(const MoePlan& moe, const FolderLayout& layout) {
  const int64_t layers = moe.models.base->config.layers;
  std::string out = fmt::format("{}: {} layers, {}, {} per token, {} parameters ({} active), {}\n",
                                moe.output->name, layers, describe_experts(moe.models),
                                moe.config.experts_per_token, human_count(moe.total_parameters),
                                human_count(moe.active_parameters), info(moe.dtype).torch);
  const Share base = share_of(moe, kBaseGroup);
  const int64_t kept = moe.models.kept_experts();
  out +=
      fmt::format("  base      {}: attention, norms, embeddings{} ({} tensors, {})\n", moe.models.base->name,
                  kept > 0 ? ", " + count_experts(kept) : "", base.tensors, human_bytes(base.bytes));
  for (size_t e = 0; e < moe.models.experts.size(); e++) {
    const ExpertConfig& expert = moe.config.experts[e];
    const Share share = share_of(moe, static_cast<int64_t>(e));
    out += fmt::format("  expert {}  {}: FFN of every layer ({} tensors, {}), {}{}\n",
                       kept + static_cast<int64_t>(e), moe.models.experts[e]->name, share.tensors,
                       human_bytes(share.bytes), describe_prompts(moe, e), describe_changes(expert));
  }
  for (size_t e = 0; e < moe.models.shared_experts.size(); e++) {
    const ExpertConfig& expert = moe.config.shared_experts[e];
    const Share share = share_of(moe, kFirstSharedGroup - static_cast<int64_t>(e));
    out += fmt::format("  shared    {}: FFN of every layer ({} tensors, {}), {}{}\n",
                       moe.models.shared_experts[e]->name, share.tensors, human_bytes(share.bytes),
                       describe_sharing(moe, e), describe_changes(expert));
  }
  out += fmt::format("  routers   gate_mode {}: {}", moe.gate_mode->name, moe.gate_mode->summary);
  out += describe_texts(moe);
  if (!moe.config.gate_mode_reason.empty())
    out += fmt::format("\n            chosen by auto: {}", moe.config.gate_mode_reason);
  if (moe.chat_template) out += fmt::format("\n  chat      template {}", moe.chat_template->origin);
  return out + "\n  written   " + written_text(moe.plan, layout);
}

Json plan_json(const MoePlan& moe, const FolderLayout& layout) {
  const auto list = [](const std::vector<const Model*>& models) {
    Json out = Json::array();
    for (const Model* model : models)
      out.push_back({{"source_model", model->name}, {"folder", model->path.string()}});
    return out;
  };
  return {
      {"architecture", std::string(moe.output->architecture->class_name)},
      {"dtype", std::string(info(moe.dtype).torch)},
      {"gate_mode", std::string(moe.gate_mode->name)},
      {"gate_mode_reason",
       moe.config.gate_mode_reason.empty() ? Json(nullptr) : Json(moe.config.gate_mode_reason)},
      {"base_model", {{"source_model", moe.models.base->name}, {"folder", moe.models.base->path.string()}}},
      {"kept_experts", moe.models.kept_experts()},
      {"experts", list(moe.models.experts)},
      {"shared_experts", list(moe.models.shared_experts)},
      {"prompts", {{"count", moe.prompts}, {"tokens", moe.prompt_tokens}}},
      {"data",
       {{"sequences", moe.data_sequences},
        {"tokens", moe.data_tokens},
        {"tokens_of_experts", moe.expert_data_tokens}}},
      {"parameters", {{"total", moe.total_parameters}, {"active", moe.active_parameters}}},
      {"bytes", bytes_json(moe.plan.totals(), layout)},
      {"chat_template", moe.chat_template
                            ? Json{{"from", moe.chat_template->origin}, {"template", moe.chat_template->text}}
                            : Json(nullptr)},
      {"warnings", moe.warnings},
      {"config", moe.model_config},
      {"tensors", tensors_json(moe.plan, layout)}};
}

}  // namespace moerge
