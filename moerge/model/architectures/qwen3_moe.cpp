// Qwen3-MoE: Qwen 3 with many small experts. transformers: models/qwen3_moe/configuration_qwen3_moe.py,
// modeling_qwen3_moe.py.

#include "moerge/model/architectures/list.h"

namespace moerge {
namespace {

bool untied(const ModelConfig& config) { return !config.tied_embeddings; }
bool biased(const ModelConfig& config) { return config.attention_bias; }
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
    {Role::o_bias, "model.layers.{layer}.self_attn.o_proj.bias", biased},
    {Role::q_norm, "model.layers.{layer}.self_attn.q_norm.weight"},
    {Role::k_norm, "model.layers.{layer}.self_attn.k_norm.weight"},
    {Role::ffn_norm, "model.layers.{layer}.post_attention_layernorm.weight"},
    {Role::router, "model.layers.{layer}.mlp.gate.weight"},
    {Role::ffn_gate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight"},
    {Role::ffn_up, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"},
    {Role::ffn_down, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"},
    {Role::output_norm, "model.norm.weight"},
    {Role::output, "lm_head.weight", untied},
    {Role::ignored, "model.layers.{layer}.self_attn.rotary_emb.inv_freq", never},
};

constexpr Mixture kMixture = {
    .keys = {.experts = "num_experts",
             .default_experts = 128,
             .default_experts_per_token = 8,
             .ffn = "moe_intermediate_size",
             .default_ffn = 768},
    .stacked = {.router = "model.layers.{layer}.mlp.gate.weight",
                .gate_up = "model.layers.{layer}.mlp.experts.gate_up_proj",
                .down = "model.layers.{layer}.mlp.experts.down_proj"},
    .expert_type = "qwen3",
};

}  // namespace

const Architecture kQwen3Moe = {
    .model_type = "qwen3_moe",
    .class_name = "Qwen3MoeForCausalLM",
    .defaults = {.vocab = 151936,
                 .hidden = 2048,
                 .ffn = 6144,
                 .layers = 24,
                 .heads = 32,
                 .kv_heads = 4,
                 .max_positions = 32768,
                 .norm_epsilon = 1e-6,
                 .rope_theta = 10000.0,
                 .sliding_window = 4096},
    .weights = kWeights,
    .mixture = &kMixture,
    .windows = Windows::all,
    .optional_window = true,
};

}  // namespace moerge
