// Qwen1.5-MoE and Qwen2-MoE: Qwen 2 with many small experts and one that every token passes through, weighed
// by a gate of its own. transformers: models/qwen2_moe/configuration_qwen2_moe.py, modeling_qwen2_moe.py.

#include "moerge/model/architectures/list.h"

namespace moerge {
namespace {

bool untied(const ModelConfig& config) { return !config.tied_embeddings; }
bool biased(const ModelConfig& config) {
  return json_bool(config.raw, "qkv_bias", config.where).value_or(true);
}
bool never(const ModelConfig&) { return false; }

constexpr WeightTemplate kWeights[] = {
    {Role::embedding, "model.embed_tokens.weight"},
    {Role::attention_norm, "model.layers.{layer}.input_layernorm.weight"},
    {Role::q, "model.layers.{layer}.self_attn.q_proj.weight"},
    {Role::k, "model.layers.{layer}.self_attn.k_proj.weight"},
    {Role::v, "model.layers.{layer}.self_attn.v_proj.weight"},
    {Role::o, "model.layers.{layer}.self_attn.o_proj.weight"},
    {Role::q_bias, "model.layers.{layer}.self_attn.q_proj.bias", biased},
    {Role::k_bias, "model.layers.{layer}.self_attn.k_proj.bias", biased},
    {Role::v_bias, "model.layers.{layer}.self_attn.v_proj.bias", biased},
    {Role::ffn_norm, "model.layers.{layer}.post_attention_layernorm.weight"},
    {Role::router, "model.layers.{layer}.mlp.gate.weight"},
    {Role::ffn_gate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight"},
    {Role::ffn_up, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"},
    {Role::ffn_down, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"},
    {Role::shared_ffn_gate, "model.layers.{layer}.mlp.shared_expert.gate_proj.weight"},
    {Role::shared_ffn_up, "model.layers.{layer}.mlp.shared_expert.up_proj.weight"},
    {Role::shared_ffn_down, "model.layers.{layer}.mlp.shared_expert.down_proj.weight"},
    {Role::shared_router, "model.layers.{layer}.mlp.shared_expert_gate.weight"},
    {Role::output_norm, "model.norm.weight"},
    {Role::output, "lm_head.weight", untied},
    {Role::ignored, "model.layers.{layer}.self_attn.rotary_emb.inv_freq", never},
};

constexpr Mixture kMixture = {
    .keys = {.experts = "num_experts",
             .default_experts = 60,
             .default_experts_per_token = 4,
             .ffn = "moe_intermediate_size",
             .default_ffn = 1408,
             .shared_ffn = "shared_expert_intermediate_size",
             .default_shared_ffn = 5632},
    .stacked = {.router = "model.layers.{layer}.mlp.gate.weight",
                .gate_up = "model.layers.{layer}.mlp.experts.gate_up_proj",
                .down = "model.layers.{layer}.mlp.experts.down_proj"},
    .expert_type = "qwen2",
};

}  // namespace

const Architecture kQwen2Moe = {
    .model_type = "qwen2_moe",
    .class_name = "Qwen2MoeForCausalLM",
    .defaults = {.vocab = 151936,
                 .hidden = 2048,
                 .ffn = 5632,
                 .layers = 24,
                 .heads = 16,
                 .kv_heads = 16,
                 .max_positions = 32768,
                 .norm_epsilon = 1e-6,
                 .rope_theta = 10000.0,
                 .sliding_window = 4096},
    .weights = kWeights,
    .mixture = &kMixture,
    .windows = Windows::even,
    .optional_window = true,
};

}  // namespace moerge
