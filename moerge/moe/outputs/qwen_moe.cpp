// Qwen2-MoE, which mergekit calls "Qwen MoE", from Qwen2, Llama and Mistral models: one shared expert,
// weighed for every token by a router of its own. transformers: models/qwen2_moe/configuration_qwen2_moe.py.

#include "moerge/model/architectures/list.h"
#include "moerge/moe/outputs/base_config.h"
#include "moerge/moe/outputs/list.h"

namespace moerge {
namespace {

constexpr std::string_view kInputs[] = {"qwen2", "llama", "mistral"};

Json make_config(const MoeModels& models, const MoeConfig& config, DType dtype) {
  Json out = base_config(*models.base, kQwen2Moe, dtype);
  out["use_sliding_window"] = false;
  out["sliding_window"] = nullptr;
  out["qkv_bias"] = true;
  out["num_experts"] = std::ssize(models.experts);
  out["num_experts_per_tok"] = config.experts_per_token;
  out["moe_intermediate_size"] = models.base->config.ffn;
  out["shared_expert_intermediate_size"] = models.base->config.ffn;
  out["norm_topk_prob"] = true;
  out["decoder_sparse_step"] = 1;
  out["mlp_only_layers"] = Json::array();
  out["output_router_logits"] = false;
  out["router_aux_loss_coef"] = 0.001;
  return out;
}

}  // namespace

const OutputArchitecture kQwenMoeOutput = {
    .name = "Qwen MoE",
    .architecture = &kQwen2Moe,
    .inputs = kInputs,
    .shared_experts = {1, 1},
    .make_config = make_config,
};

}  // namespace moerge
