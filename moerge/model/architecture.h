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
  q_norm,  // over each head of q, before the rotary embedding: [head_dim]
  k_norm,
  ffn_norm,  // the norm before the FFN, whose output the router of an MoE reads
  ffn_gate,  // of a dense layer, or of one expert
  ffn_up,
  ffn_down,
  router,           // [experts, hidden]
  shared_ffn_gate,  // of the shared expert, or of all of them side by side
  shared_ffn_up,
  shared_ffn_down,
  shared_router,  // the sigmoid of its product weighs the shared expert: [1, hidden]
  ignored,        // computed anew by every reader, never copied (old checkpoints' rotary_emb.inv_freq)
};

struct WeightTemplate {
  Role role;
  std::string_view name;  // {layer} and {expert} stand for their numbers
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
  int64_t head_dim = 0;    // 0: hidden / heads
};

/// What a family of mixtures calls things in config.json, with the defaults of its class.
struct ExpertKeys {
  const char* experts;  // or "num_local_experts", which transformers 5 writes for several families
  int64_t default_experts;
  int64_t default_experts_per_token;  // of num_experts_per_tok
  const char* ffn;                    // width of an expert; null: intermediate_size
  int64_t default_ffn;                // 0: the key must be there
  const char* shared_ffn = nullptr;   // width of the shared expert; null: no such key
  int64_t default_shared_ffn = 0;
  const char* shared_count = nullptr;  // of shared experts, each as wide as the others; null: no such key
  bool always_normalised = false;      // the chosen experts' weights sum to 1; else norm_topk_prob says so
  bool never_single = false;           // but a single one is left as the router has it
  const char* scale = nullptr;         // factor on the chosen experts' weights; null: no such key
};

/// How a mixture is stored otherwise: all experts of a layer in two tensors (the layout that transformers 5
/// keeps in memory and the newest mergekit writes).
struct StackedLayout {
  std::string_view router, gate_up, down;                  // with {layer}
  std::string_view shared_gate_up = {}, shared_down = {};  // empty: shared experts are stored as ever
};

struct Mixture {
  ExpertKeys keys;
  StackedLayout stacked;
  std::string_view expert_type;  // model_type of an expert that stands alone as a dense model
  bool always_stacked = false;   // stored in no other way: the names of its experts' weights only name them
};

/// Which layers of a family see only the last sliding_window tokens (where config.json names a window).
enum class Windows {
  none,    // the family does not know the key
  all,     // every layer
  listed,  // those that layer_types names; every layer without that list
  late,    // those that layer_types names; without it, from max_window_layers on
  even,    // those that layer_types names; without it, every other one below max_window_layers, from 0 on
};

struct Architecture {
  std::string_view model_type;  // in config.json
  std::string_view class_name;  // in "architectures"
  ConfigDefaults defaults;
  std::span<const WeightTemplate> weights;  // of a mixture: in the layout of one tensor an expert and matrix
  const Mixture* mixture = nullptr;         // null: a dense family
  Windows windows = Windows::none;
  bool optional_window = false;  // sliding_window counts only with use_sliding_window
};

/// All families, in a fixed order. A new one is a file in architectures/ and a line in architecture.cpp.
std::span<const Architecture* const> architectures();
const Architecture* find_architecture(std::string_view model_type);

bool is_per_layer(Role role);
/// What a shared expert's matrix is in a dense model, ffn_up for shared_ffn_up; any other role is itself.
Role dense_role(Role role);
Shape expected_shape(Role role, const ModelConfig& config);
/// Replaces {layer} and {expert}.
std::string fill_name(std::string_view name, int64_t layer, int64_t expert = -1);
std::string weight_name(const WeightTemplate& weight, int64_t layer, int64_t expert = -1);
/// The template of a role, or null when the family has none.
const WeightTemplate* find_weight(const Architecture& architecture, Role role);
/// The same for a role that the family must have; throws unsupported.
const WeightTemplate& weight_for(const Architecture& architecture, Role role);

/// Name, role and layer of each tensor of this family that `checkpoint` holds (ignored ones left out), in the
/// order embedding, layers, norm, output.
struct Weight {
  std::string name;
  Role role;
  int64_t layer;        // -1 outside the layers
  int64_t expert = -1;  // -1: of the layer as a whole
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
