// DeepSeek-MoE from Llama and Mistral models, with or without an expert that every token passes through. Its
// code lies in a repository on the Hub, which "auto_map" names: configuration_deepseek.py,
// modeling_deepseek.py.

#include "moerge/model/architectures/list.h"
#include "moerge/moe/outputs/base_config.h"
#include "moerge/moe/outputs/list.h"

namespace moerge {
namespace {

constexpr std::string_view kInputs[] = {"llama", "mistral"};
constexpr std::string_view kRopeTypes[] = {"default", "linear", "dynamic"};  // DeepseekAttention._init_rope

std::string remote(const char* name) { return std::string("deepseek-ai/deepseek-moe-16b-base--") + name; }

Json make_config(const MoeModels& models, const MoeConfig& config, DType dtype) {
  Json out = base_config(*models.base, kDeepseek, dtype);
  out["auto_map"] = {{"AutoConfig", remote("configuration_deepseek.DeepseekConfig")},
                     {"AutoModel", remote("modeling_deepseek.DeepseekModel")},
                     {"AutoModelForCausalLM", remote("modeling_deepseek.DeepseekForCausalLM")}};
  out["attention_bias"] = models.base->config.attention_bias;
  out.erase("sliding_window");
  out["n_routed_experts"] = std::ssize(models.experts);
  out["n_shared_experts"] = models.shared_experts.empty() ? Json(nullptr) : Json(1);
  out["num_experts_per_tok"] = config.experts_per_token;
  out["moe_intermediate_size"] = models.base->config.ffn;
  out["first_k_dense_replace"] = 0;
  out["moe_layer_freq"] = 1;
  out["scoring_func"] = "softmax";
  out["norm_topk_prob"] = true;
  return out;
}

}  // namespace

const OutputArchitecture kDeepseekMoeOutput = {
    .name = "DeepSeek MoE",
    .architecture = &kDeepseek,
    .inputs = kInputs,
    .shared_experts = {0, 1},
    .rope_types = kRopeTypes,
    .fused_layout = false,
    .remote_code = true,
    .make_config = make_config,
};

}  // namespace moerge
