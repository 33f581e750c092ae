// Qwen 3: a norm over every head of q and k, head_dim on its own. transformers:
// models/qwen3/configuration_qwen3.py, modeling_qwen3.py.

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
    {Role::ffn_gate, "model.layers.{layer}.mlp.gate_proj.weight"},
    {Role::ffn_up, "model.layers.{layer}.mlp.up_proj.weight"},
    {Role::ffn_down, "model.layers.{layer}.mlp.down_proj.weight"},
    {Role::output_norm, "model.norm.weight"},
    {Role::output, "lm_head.weight", untied},
    {Role::ignored, "model.layers.{layer}.self_attn.rotary_emb.inv_freq", never},
};

}  // namespace

const Architecture kQwen3 = {
    .model_type = "qwen3",
    .class_name = "Qwen3ForCausalLM",
    .defaults = {.vocab = 151936,
                 .hidden = 4096,
                 .ffn = 22016,
                 .layers = 32,
                 .heads = 32,
                 .kv_heads = 32,
                 .max_positions = 32768,
                 .norm_epsilon = 1e-6,
                 .rope_theta = 10000.0,
                 .sliding_window = 4096,
                 .head_dim = 128},
    .weights = kWeights,
    .windows = Windows::late,
    .optional_window = true,
};

}  // namespace moerge
