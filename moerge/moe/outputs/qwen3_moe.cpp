// Qwen3-MoE from Qwen3 models. transformers: models/qwen3_moe/configuration_qwen3_moe.py.

#include "moerge/model/architectures/list.h"
#include "moerge/moe/outputs/base_config.h"
#include "moerge/moe/outputs/list.h"

namespace moerge {
namespace {

constexpr std::string_view kInputs[] = {"qwen3"};

Json make_config(const MoeModels& models, const MoeConfig& config, DType dtype) {
  Json out = base_config(*models.base, kQwen3Moe, dtype);
  out["head_dim"] = models.base->config.head_dim;  // its class default differs from Qwen3's
  out["attention_bias"] = models.base->config.attention_bias;
  out["use_sliding_window"] = false;
  out["sliding_window"] = nullptr;
  out["num_experts"] = std::ssize(models.experts);
  out["num_experts_per_tok"] = config.experts_per_token;
  out["moe_intermediate_size"] = models.base->config.ffn;
  out["norm_topk_prob"] = true;
  out["decoder_sparse_step"] = 1;
  out["mlp_only_layers"] = Json::array();
  out["output_router_logits"] = false;
  out["router_aux_loss_coef"] = 0.001;
  return out;
}

}  // namespace

const OutputArchitecture kQwen3MoeOutput = {
    .name = "Qwen3 MoE",
    .architecture = &kQwen3Moe,
    .inputs = kInputs,
    .own_head_dim = true,
    .make_config = make_config,
};

}  // namespace moerge
