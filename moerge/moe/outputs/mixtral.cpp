// Mixtral (Jiang et al., "Mixtral of Experts", arXiv 2401.04088). transformers:
// models/mixtral/configuration_mixtral.py; the per-expert names are those of the original release, which
// transformers 4 and 5, vLLM and llama.cpp read.

#include "moerge/moe/outputs/list.h"

namespace moerge {
namespace {

constexpr std::string_view kInputs[] = {"llama", "mistral"};
constexpr Role kHeld[] = {Role::embedding, Role::output_norm, Role::output, Role::attention_norm,
                          Role::q,         Role::k,           Role::v,      Role::o,
                          Role::ffn_norm,  Role::ffn_gate,    Role::ffn_up, Role::ffn_down};

// Keys of the base's config.json that Mixtral spells or means differently, or that name code of the base's
// own.
constexpr const char* kDropped[] = {
    "auto_map",          "attention_bias",       "mlp_bias",      "pretraining_tp",
    "rope_theta",        "rope_parameters",      "rope_scaling",  "dtype",
    "torch_dtype",       "transformers_version", "_name_or_path", "layer_types",
    "use_sliding_window"};

// Every value is written out, since Mixtral's class defaults differ from Llama's and Mistral's (rope_theta is
// 1e6). The older spelling (rope_theta, rope_scaling, torch_dtype) is the one that transformers 4 and 5 and
// llama.cpp all read.
Json make_config(const MoeModels& models, const MoeConfig& config, DType dtype) {
  const ModelConfig& base = models.base->config;
  Json out = base.raw;
  for (const char* key : kDropped) out.erase(key);
  out["architectures"] = {"MixtralForCausalLM"};
  out["model_type"] = "mixtral";
  out["vocab_size"] = base.vocab;
  out["hidden_size"] = base.hidden;
  out["intermediate_size"] = base.ffn;
  out["num_hidden_layers"] = base.layers;
  out["num_attention_heads"] = base.heads;
  out["num_key_value_heads"] = base.kv_heads;
  if (base.head_dim * base.heads != base.hidden || base.explicit_head_dim)
    out["head_dim"] = base.head_dim;
  else
    out.erase("head_dim");  // an explicit null is not understood by every reader
  out["hidden_act"] = base.activation;
  out["max_position_embeddings"] = base.max_positions;
  out["rms_norm_eps"] = base.norm_epsilon;
  out["tie_word_embeddings"] = base.tied_embeddings;
  out["rope_theta"] = base.rope.theta;
  if (!base.rope.scaling.is_null()) {
    out["rope_scaling"] = base.rope.scaling;
    // The two kinds that are older than "rope_type": readers of their time look for "type".
    if (base.rope.type == "linear" || base.rope.type == "dynamic")
      out["rope_scaling"]["type"] = base.rope.type;
  }
  out["sliding_window"] = nullptr;
  out["num_local_experts"] = std::ssize(models.experts);
  out["num_experts_per_tok"] = config.experts_per_token;
  out["output_router_logits"] = false;
  out["router_aux_loss_coef"] = 0.001;
  out["router_jitter_noise"] = 0.0;
  out["torch_dtype"] = std::string(info(dtype).torch);
  return out;
}

}  // namespace

const OutputArchitecture kMixtral = {
    .name = "Mixtral",
    .model_type = "mixtral",
    .class_name = "MixtralForCausalLM",
    .inputs = kInputs,
    .held = kHeld,
    .per_expert = {.router = "model.layers.{layer}.block_sparse_moe.gate.weight",
                   .ffn_gate = "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",
                   .ffn_up = "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",
                   .ffn_down = "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",
                   .gate_up = {},
                   .down = {}},
    .fused = {.router = "model.layers.{layer}.mlp.gate.weight",
              .ffn_gate = {},
              .ffn_up = {},
              .ffn_down = {},
              .gate_up = "model.layers.{layer}.mlp.experts.gate_up_proj",
              .down = "model.layers.{layer}.mlp.experts.down_proj"},
    .make_config = make_config,
};

}  // namespace moerge
