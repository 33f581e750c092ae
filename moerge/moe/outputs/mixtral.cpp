// Mixtral from Llama and Mistral models. transformers: models/mixtral/configuration_mixtral.py.

#include "moerge/model/architectures/list.h"
#include "moerge/moe/outputs/list.h"

namespace moerge {
namespace {

constexpr std::string_view kInputs[] = {"llama", "mistral"};
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

const OutputArchitecture kMixtralOutput = {
    .name = "Mixtral",
    .architecture = &kMixtral,
    .inputs = kInputs,
    .make_config = make_config,
};

}  // namespace moerge
