#pragma once
// Model families as data. Planners ask for roles; nobody looks for ".mlp." in a name.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/formats/checkpoint.h"
#include "moerge/model/config.h"

namespace moerge {

enum class Role {
  embedding,    // [vocab, hidden]
  output_norm,  // [hidden]
  output,       // lm_head: [vocab, hidden]; absent when the embeddings are tied
  attention_norm,
  q,
  k,
  v,
  o,
  q_bias,
  k_bias,
  v_bias,
  o_bias,
  ffn_norm,  // the norm before the FFN, whose output the router of an MoE reads
  ffn_gate,
  ffn_up,
  ffn_down,
  ignored,  // computed anew by every reader, never copied (old checkpoints' rotary_emb.inv_freq)
};

struct WeightTemplate {
  Role role;
  std::string_view name;  // "{}" stands for the layer's number
  /// Which configurations need it; null: all. Others may have it.
  bool (*required)(const ModelConfig&) = nullptr;
};

/// The defaults of the family's configuration class in transformers, for keys that config.json leaves out.
struct ConfigDefaults {
  int64_t vocab, hidden, ffn, layers, heads;
  int64_t kv_heads;  // 0: as many as heads
  int64_t max_positions;
  double norm_epsilon;
  double rope_theta;
  int64_t sliding_window;  // 0: none
};

struct Architecture {
  std::string_view model_type;  // in config.json
  std::string_view class_name;  // in "architectures"
  ConfigDefaults defaults;
  std::span<const WeightTemplate> weights;
};

/// All families, in a fixed order. A new one is a file in architectures/ and a line in architecture.cpp.
std::span<const Architecture* const> architectures();
const Architecture* find_architecture(std::string_view model_type);

bool is_per_layer(Role role);
Shape expected_shape(Role role, const ModelConfig& config);
std::string weight_name(const WeightTemplate& weight, int64_t layer);
/// The template of a role; every family has every role that the shared forward pass needs.
const WeightTemplate& weight_for(const Architecture& architecture, Role role);

/// Name, role and layer of each tensor of this family that `checkpoint` holds (ignored ones left out), in the
/// order embedding, layers, norm, output.
struct Weight {
  std::string name;
  Role role;
  int64_t layer;  // -1 outside the layers
};
std::vector<Weight> list_weights(const Architecture& architecture, const ModelConfig& config,
                                 const Checkpoint& checkpoint);

struct WeightReport {
  std::vector<std::string>
      errors;  // missing, of another shape than config.json says, not a float type, unknown
  std::vector<std::string>
      warnings;  // tensors outside the decoder that will be left out (a reward head, say)
};
/// Compares a checkpoint with what its configuration promises; each message starts with the model's path.
WeightReport check_weights(const Architecture& architecture, const ModelConfig& config,
                           const Checkpoint& checkpoint);

}  // namespace moerge
