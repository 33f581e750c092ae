// Llama 1 to 3, and the many families that use its layout (Yi, DeepSeek's dense models, SmolLM, TinyLlama).
// transformers: models/llama/configuration_llama.py, modeling_llama.py.

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
    {Role::ffn_norm, "model.layers.{layer}.post_attention_layernorm.weight"},
    {Role::ffn_gate, "model.layers.{layer}.mlp.gate_proj.weight"},
    {Role::ffn_up, "model.layers.{layer}.mlp.up_proj.weight"},
    {Role::ffn_down, "model.layers.{layer}.mlp.down_proj.weight"},
    {Role::output_norm, "model.norm.weight"},
    {Role::output, "lm_head.weight", untied},
    {Role::ignored, "model.layers.{layer}.self_attn.rotary_emb.inv_freq", never},
};

}  // namespace

const Architecture kLlama = {
    .model_type = "llama",
    .class_name = "LlamaForCausalLM",
    .defaults = {.vocab = 32000,
                 .hidden = 4096,
                 .ffn = 11008,
                 .layers = 32,
                 .heads = 32,
                 .kv_heads = 0,
                 .max_positions = 2048,
                 .norm_epsilon = 1e-6,
                 .rope_theta = 10000.0,
                 .sliding_window = 0},
    .weights = kWeights,
};

}  // namespace moerge
