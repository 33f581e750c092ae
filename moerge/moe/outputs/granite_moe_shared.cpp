// What DeepSeek MoE computes, in a family whose code comes with transformers. (With one expert per token it
// is what Mixtral would compute plus the shared expert; DeepSeek's code does not normalise a single weight.)
// transformers: models/granitemoeshared/configuration_granitemoeshared.py.

#include <cmath>

#include "moerge/model/architectures/list.h"
#include "moerge/moe/outputs/base_config.h"
#include "moerge/moe/outputs/list.h"

namespace moerge {
namespace {

constexpr std::string_view kInputs[] = {"llama", "mistral"};

Json make_config(const MoeModels& models, const MoeConfig& config, DType dtype) {
  const ModelConfig& base = models.base->config;
  Json out = base_config(*models.base, kGraniteMoeShared, dtype);
  out["attention_bias"] = base.attention_bias;
  out.erase("sliding_window");
  out["attention_multiplier"] = std::pow(static_cast<double>(base.head_dim), -0.5);
  out["embedding_multiplier"] = 1.0;
  out["residual_multiplier"] = 1.0;
  out["logits_scaling"] = 1.0;
  out["num_local_experts"] = std::ssize(models.experts);
  out["num_experts_per_tok"] = config.experts_per_token;
  out["shared_intermediate_size"] = models.shared_experts.empty() ? 0 : base.ffn;
  out["output_router_logits"] = false;
  out["router_aux_loss_coef"] = 0.001;
  return out;
}

}  // namespace

const OutputArchitecture kGraniteMoeSharedOutput = {
    .name = "Granite MoE Shared",
    .architecture = &kGraniteMoeShared,
    .inputs = kInputs,
    .shared_experts = {0, 1},
    .by_request_only = true,
    .make_config = make_config,
};

}  // namespace moerge
