#include "moerge/moe/outputs/base_config.h"

namespace moerge {
namespace {

// Spelled or meant differently by the output's class, or naming code of the base's own.
constexpr const char* kDropped[] = {
    "auto_map",          "attention_bias",       "mlp_bias",      "pretraining_tp",
    "rope_theta",        "rope_parameters",      "rope_scaling",  "dtype",
    "torch_dtype",       "transformers_version", "_name_or_path", "layer_types",
    "use_sliding_window"};

void add_rope(Json& out, const RopeConfig& rope) {
  out["rope_theta"] = rope.theta;
  if (rope.scaling.is_null()) return;
  out["rope_scaling"] = rope.scaling;
  // The two kinds that are older than "rope_type": readers of their time look for "type".
  if (rope.type == "linear" || rope.type == "dynamic") out["rope_scaling"]["type"] = rope.type;
}

}  // namespace

Json base_config(const Model& base, const Architecture& output, DType dtype) {
  const ModelConfig& config = base.config;
  Json out = config.raw;
  for (const char* key : kDropped) out.erase(key);
  out["architectures"] = {std::string(output.class_name)};
  out["model_type"] = std::string(output.model_type);
  out["vocab_size"] = config.vocab;
  out["hidden_size"] = config.hidden;
  out["intermediate_size"] = config.ffn;
  out["num_hidden_layers"] = config.layers;
  out["num_attention_heads"] = config.heads;
  out["num_key_value_heads"] = config.kv_heads;
  if (config.head_dim * config.heads != config.hidden || config.explicit_head_dim)
    out["head_dim"] = config.head_dim;
  else
    out.erase("head_dim");  // an explicit null is not understood by every reader
  out["hidden_act"] = config.activation;
  out["max_position_embeddings"] = config.max_positions;
  out["rms_norm_eps"] = config.norm_epsilon;
  out["tie_word_embeddings"] = config.tied_embeddings;
  add_rope(out, config.rope);
  out["torch_dtype"] = std::string(info(dtype).torch);
  return out;
}

}  // namespace moerge
