// GraniteMoeShared (IBM Granite 3 and 4 with a shared expert): Llama's attention, a router whose chosen
// experts' weights sum to 1, and an FFN that every token passes through. With its multipliers at 1 and
// attention scaled by 1/sqrt(head_dim) it computes what DeepSeek-MoE computes. transformers:
// models/granitemoeshared/configuration_granitemoeshared.py, modeling_granitemoeshared.py; the stored names
// are those of version 4, which version 5 reads and writes as well (conversion_mapping.py).

#include "moerge/model/architectures/list.h"

namespace moerge {
namespace {

bool untied(const ModelConfig& config) { return !config.tied_embeddings; }
bool biased(const ModelConfig& config) { return config.attention_bias; }
bool shared(const ModelConfig& config) { return config.shared_ffn > 0; }

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
    {Role::router, "model.layers.{layer}.block_sparse_moe.router.layer.weight"},
    {Role::ffn_gate, "model.layers.{layer}.block_sparse_moe.experts.{expert}.gate_proj.weight"},
    {Role::ffn_up, "model.layers.{layer}.block_sparse_moe.experts.{expert}.up_proj.weight"},
    {Role::ffn_down, "model.layers.{layer}.block_sparse_moe.experts.{expert}.down_proj.weight"},
    {Role::shared_ffn_gate, "model.layers.{layer}.shared_mlp.gate_proj.weight", shared},
    {Role::shared_ffn_up, "model.layers.{layer}.shared_mlp.up_proj.weight", shared},
    {Role::shared_ffn_down, "model.layers.{layer}.shared_mlp.down_proj.weight", shared},
    {Role::output_norm, "model.norm.weight"},
    {Role::output, "lm_head.weight", untied},
};

constexpr Mixture kMixture = {
    .keys = {.experts = "num_local_experts",
             .default_experts = 8,
             .default_experts_per_token = 2,
             .ffn = nullptr,
             .default_ffn = 0,
             .shared_ffn = "shared_intermediate_size",
             .default_shared_ffn = 0,
             .always_normalised = true},
    .stacked = {.router = "model.layers.{layer}.block_sparse_moe.router.layer.weight",
                .gate_up = "model.layers.{layer}.block_sparse_moe.input_linear.weight",
                .down = "model.layers.{layer}.block_sparse_moe.output_linear.weight",
                .shared_gate_up = "model.layers.{layer}.shared_mlp.input_linear.weight",
                .shared_down = "model.layers.{layer}.shared_mlp.output_linear.weight"},
    .expert_type = "llama",
    .always_stacked = true,
};

}  // namespace

const Architecture kGraniteMoeShared = {
    .model_type = "granitemoeshared",
    .class_name = "GraniteMoeSharedForCausalLM",
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
    .mixture = &kMixture,
};

}  // namespace moerge
