// DeepSeek-MoE (Dai et al., arXiv 2401.06066), the first one: Llama with shared and routed experts. Its code
// lies in the repository deepseek-ai/deepseek-moe-16b-base: configuration_deepseek.py, modeling_deepseek.py.

#include "moerge/model/architectures/list.h"

namespace moerge {
namespace {

bool untied(const ModelConfig& config) { return !config.tied_embeddings; }
bool biased(const ModelConfig& config) { return config.attention_bias; }
bool shared(const ModelConfig& config) { return config.shared_ffn > 0; }
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
    {Role::router, "model.layers.{layer}.mlp.gate.weight"},
    {Role::ffn_gate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight"},
    {Role::ffn_up, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"},
    {Role::ffn_down, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"},
    {Role::shared_ffn_gate, "model.layers.{layer}.mlp.shared_experts.gate_proj.weight", shared},
    {Role::shared_ffn_up, "model.layers.{layer}.mlp.shared_experts.up_proj.weight", shared},
    {Role::shared_ffn_down, "model.layers.{layer}.mlp.shared_experts.down_proj.weight", shared},
    {Role::output_norm, "model.norm.weight"},
    {Role::output, "lm_head.weight", untied},
    {Role::ignored, "model.layers.{layer}.self_attn.rotary_emb.inv_freq", never},
};

constexpr Mixture kMixture = {
    .keys = {.experts = "n_routed_experts",
             .default_experts = 0,
             .default_experts_per_token = 0,
             .ffn = "moe_intermediate_size",
             .default_ffn = 1407,
             .shared_count = "n_shared_experts",
             .never_single = true,
             .scale = "routed_scaling_factor"},
    .stacked = {.router = "model.layers.{layer}.mlp.gate.weight",
                .gate_up = "model.layers.{layer}.mlp.experts.gate_up_proj",
                .down = "model.layers.{layer}.mlp.experts.down_proj"},
    .expert_type = "llama",
};

}  // namespace

const Architecture kDeepseek = {
    .model_type = "deepseek",
    .class_name = "DeepseekForCausalLM",
    .defaults = {.vocab = 102400,
                 .hidden = 4096,
                 .ffn = 11008,
                 .layers = 30,
                 .heads = 32,
                 .kv_heads = 32,
                 .max_positions = 2048,
                 .norm_epsilon = 1e-6,
                 .rope_theta = 10000.0,
                 .sliding_window = 0},
    .weights = kWeights,
    .mixture = &kMixture,
};

}  // namespace moerge
