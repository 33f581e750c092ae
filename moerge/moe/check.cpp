#include "moerge/moe/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "moerge/model/mixture.h"

namespace moerge {
namespace {

enum class Severity { error, warning };

struct Rule {
  const char* what;
  Severity severity;
  std::string (*value)(const ModelConfig&);
  const char* consequence;
};

// Keys in alphabetical order: files list them as they please.
std::string rope_of(const ModelConfig& config) {
  return fmt::format(
      "theta {}, {}", config.rope.theta,
      config.rope.scaling.is_null() ? "no scaling" : nlohmann::json(config.rope.scaling).dump());
}

// Errors where the result could not be loaded or would compute nonsense; warnings where it runs, but the
// expert finds itself in other surroundings than it was trained in.
const Rule kRules[] = {
    {"num_hidden_layers", Severity::error, [](const ModelConfig& c) { return fmt::to_string(c.layers); },
     "every layer needs an FFN from every expert"},
    {"hidden_size", Severity::error, [](const ModelConfig& c) { return fmt::to_string(c.hidden); },
     "its FFN cannot read the base's hidden states"},
    {"intermediate_size", Severity::error, [](const ModelConfig& c) { return fmt::to_string(c.ffn); },
     "all experts of an MoE have the same FFN size"},
    {"num_attention_heads", Severity::error, [](const ModelConfig& c) { return fmt::to_string(c.heads); },
     "it is no relative of the base, and its FFN would see hidden states that mean something else"},
    {"num_key_value_heads", Severity::error, [](const ModelConfig& c) { return fmt::to_string(c.kv_heads); },
     "it is no relative of the base, and its FFN would see hidden states that mean something else"},
    {"head_dim", Severity::error, [](const ModelConfig& c) { return fmt::to_string(c.head_dim); },
     "it is no relative of the base, and its FFN would see hidden states that mean something else"},
    {"hidden_act", Severity::error, [](const ModelConfig& c) { return c.activation; },
     "an MoE has one activation for all experts"},
    {"rms_norm_eps", Severity::warning, [](const ModelConfig& c) { return fmt::to_string(c.norm_epsilon); },
     "the base's is used"},
    {"rotary embedding", Severity::warning, rope_of,
     "the base's is used, and the expert was trained on another"},
    {"vocab_size", Severity::warning, [](const ModelConfig& c) { return fmt::to_string(c.vocab); },
     "embeddings and output are the base's, so tokens that only the expert has are lost"},
};

}  // namespace

Findings check_models_fit(const MoeModels& models) {
  Findings findings;
  std::set<const Model*> seen;
  const auto check_folder = [&](const Model& model) {
    if (!seen.insert(&model).second) return;
    WeightReport report = check_weights(*model.architecture, model.config, model.checkpoint);
    std::ranges::move(report.errors, std::back_inserter(findings.damaged));
    std::ranges::move(report.warnings, std::back_inserter(findings.warnings));
  };
  check_folder(*models.base);
  const ModelConfig& base = models.base->config;
  const auto check_expert = [&](const Model* expert, const char* role) {
    if (seen.contains(expert)) return;
    check_folder(*expert);
    if (expert->is_mixture()) {
      findings.misfits.push_back(fmt::format(
          "\"{0}\" is a mixture of {1} itself; an expert is one of them: write \"{0}#expert=0\"{2}",
          expert->name, count_experts(expert->config.experts),
          expert->config.experts == 1 ? ""
                                      : fmt::format(" (or another, to {})", expert->config.experts - 1)));
      return;
    }
    for (const Rule& rule : kRules) {
      const std::string theirs = rule.value(expert->config), ours = rule.value(base);
      if (theirs == ours) continue;
      (rule.severity == Severity::error ? findings.misfits : findings.warnings)
          .push_back(fmt::format("{} differs: {} \"{}\" has {}, the base \"{}\" has {}; {}", rule.what, role,
                                 expert->name, theirs, models.base->name, ours, rule.consequence));
    }
  };
  for (const Model* expert : models.experts) check_expert(expert, "expert");
  for (const Model* expert : models.shared_experts) check_expert(expert, "shared expert");
  return findings;
}

}  // namespace moerge
