#include "moerge/moe/outputs/base_config.h"

namespace moerge {
namespace {

// Spelled or meant differently by the output's class, or naming code of the base's own.
constexpr const char* kDropped[] = {
    "auto_map",          "attention_bias",       "mlp_bias",      "pretraining_tp",
    "rope_theta",        "rope_parameters",      "rope_scaling",  "dtype",
    "torch_dtype",       "transformers_version", "_name_or_path", "layer_types",
    "use_sliding_window"};

}  // namespace

Json base_config(const Model& base, const Architecture& output, DType dtype) {
  const ModelConfig& config = base.config;
  Json out = config.raw;
  for (const char* key : kDropped) out.erase(key);
  out["architectures"] = {std::string(output.class_name)};
  out["model_type"] = std::string(output.model_type);
  write_sizes(config, config.head_dim * config.heads != config.hidden || config.explicit_head_dim, out);
  write_rope(config.rope, out);
  out["torch_dtype"] = std::string(info(dtype).torch);
  return out;
}

}  // namespace moerge
