// Mixtral (Jiang et al., "Mixtral of Experts", arXiv 2401.04088). transformers:
// models/mixtral/configuration_mixtral.py, modeling_mixtral.py; the names are those of the original release,
// which transformers 4 and 5, vLLM and llama.cpp read.

#include "moerge/model/architectures/list.h"

namespace moerge {
namespace {

bool untied(const ModelConfig& config) { return !config.tied_embeddings; }
bool never(const ModelConfig&) { return false; }

constexpr WeightTemplate kWeights[] = {
    {Role::embedding, "model.embed_tokens.weight"},
    {Role::attention_norm, "model.layers.{layer}.input_layernorm.weight"},
    {Role::q, "model.layers.{layer}.self_attn.q_proj.weight"},
    {Role::k, "model.layers.{layer}.self_attn.k_proj.weight"},
    {Role::v, "model.layers.{layer}.self_attn.v_proj.weight"},
    {Role::o, "model.layers.{layer}.self_attn.o_proj.weight"},
    {Role::ffn_norm, "model.layers.{layer}.post_attention_layernorm.weight"},
    {Role::router, "model.layers.{layer}.block_sparse_moe.gate.weight"},
    {Role::ffn_gate, "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight"},
    {Role::ffn_up, "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight"},
    {Role::ffn_down, "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight"},
    {Role::output_norm, "model.norm.weight"},
    {Role::output, "lm_head.weight", untied},
    {Role::ignored, "model.layers.{layer}.self_attn.rotary_emb.inv_freq", never},
};

constexpr Mixture kMixture = {
    .keys = {.experts = "num_local_experts",
             .default_experts = 8,
             .default_experts_per_token = 2,
             .ffn = nullptr,
             .default_ffn = 0,
             .always_normalised = true},
    .stacked = {.router = "model.layers.{layer}.mlp.gate.weight",
                .gate_up = "model.layers.{layer}.mlp.experts.gate_up_proj",
                .down = "model.layers.{layer}.mlp.experts.down_proj"},
    .expert_type = "mistral",
};

}  // namespace

const Architecture kMixtral = {
    .model_type = "mixtral",
    .class_name = "MixtralForCausalLM",
    .defaults = {.vocab = 32000,
                 .hidden = 4096,
                 .ffn = 14336,
                 .layers = 32,
                 .heads = 32,
                 .kv_heads = 8,
                 .max_positions = 131072,
                 .norm_epsilon = 1e-5,
                 .rope_theta = 1000000.0,
                 .sliding_window = 0},
    .weights = kWeights,
    .mixture = &kMixture,
    .windows = Windows::all,
};

}  // namespace moerge
