#include "moerge/model/mixture.h"

#include <array>
#include <set>
#include <unordered_map>

#include "moerge/base/error.h"
#include "moerge/model/model.h"

namespace moerge {
namespace {

struct StackPlace {
  const ExpertStack* stack;
  int64_t layer;
};

// Of the expert's own matrices in a stack: [rows, columns] of all roles together.
Shape stacked_matrix(const ExpertStack& stack, const ModelConfig& config) {
  Shape shape = expected_shape(stack.roles.front(), config);
  for (size_t i = 1; i < stack.roles.size(); i++) shape[0] += expected_shape(stack.roles[i], config)[0];
  return shape;
}

void check_stack(const StoredTensor& tensor, const StackPlace& place, const Checkpoint& checkpoint,
                 const Architecture& architecture, const ModelConfig& config) {
  const std::string where = checkpoint.path().string();
  const Shape matrix = stacked_matrix(*place.stack, config), found = tensor.spec.shape;
  const Shape expected = {config.experts, matrix[0], matrix[1]};
  if (!tensor.is_plain())
    fail(ErrorKind::unsupported,
         "{}: tensor \"{}\", the experts of a layer in one, is quantised: use the "
         "unquantised model",
         where, tensor.spec.name);
  // GGUF writers drop a first dimension of 1.
  if (found != expected && !(config.experts == 1 && found == matrix))
    fail(ErrorKind::input, "{}: tensor \"{}\" is {}, {} says {} (experts, rows, columns)", where,
         tensor.spec.name, to_string(found), config.source, to_string(expected));
  if (matrix[1] % info(tensor.spec.dtype).block != 0)
    fail(ErrorKind::input, "{}: rows of tensor \"{}\" {} are no whole number of {} blocks", where,
         tensor.spec.name, to_string(found), info(tensor.spec.dtype).name());
  for (const Role role : place.stack->roles)
    for (int64_t e = 0; e < config.experts; e++)
      if (const std::string name = weight_name(weight_for(architecture, role), place.layer, e);
          checkpoint.find(name))
        fail(ErrorKind::input, "{}: expert {} of layer {} is there twice, in \"{}\" and in \"{}\"", where, e,
             place.layer, tensor.spec.name, name);
}

std::vector<StoredTensor> split_stack(const StoredTensor& tensor, const StackPlace& place,
                                      const Architecture& architecture, const ModelConfig& config) {
  std::vector<StoredTensor> out;
  int64_t offset = tensor.offset;
  for (int64_t e = 0; e < config.experts; e++)
    for (const Role role : place.stack->roles) {
      StoredTensor part = tensor;
      part.spec.name = weight_name(weight_for(architecture, role), place.layer, e);
      part.spec.shape = expected_shape(role, config);
      part.offset = offset;
      offset += part.spec.bytes();
      out.push_back(std::move(part));
    }
  return out;
}

bool is_ffn(Role role) { return role == Role::ffn_gate || role == Role::ffn_up || role == Role::ffn_down; }

// Whether a mixture's weight is one of the dense model's.
bool is_kept(const Weight& weight, int64_t expert) {
  if (weight.role == Role::router || weight.role == Role::shared_router) return false;
  if (is_ffn(weight.role)) return weight.expert == expert;
  if (is_ffn(dense_role(weight.role))) return expert == kSharedExpert;
  return true;
}

// Keys of a mixture's config.json that a dense model has no use for, or that are written anew.
constexpr const char* kDropped[] = {
    "num_experts_per_tok", "norm_topk_prob", "routed_scaling_factor", "router_aux_loss_coef",
    "output_router_logits", "router_jitter_noise", "decoder_sparse_step", "mlp_only_layers",
    "first_k_dense_replace", "moe_layer_freq", "scoring_func", "topk_method", "aux_loss_alpha", "seq_aux",
    "n_group", "topk_group", "ep_size", "num_local_experts", "num_experts", "qkv_bias",
    // spelt anew
    "attention_bias", "mlp_bias", "rope_theta", "rope_parameters", "rope_scaling", "dtype", "torch_dtype",
    // of another class, or of whoever wrote the file
    "auto_map", "transformers_version", "_name_or_path"};

// The two families may find the layers that have a window in other ways: they are listed. Where the window is
// not optional it is a number for all layers, or null.
void set_window(Json& out, const ModelConfig& mixture, const Architecture& dense) {
  out.erase("layer_types");
  if (dense.optional_window) {
    out["use_sliding_window"] = mixture.sliding_window.has_value();
    if (!mixture.sliding_window) return;
    out["sliding_window"] = *mixture.sliding_window;
    for (int64_t layer = 0; layer < mixture.layers; layer++)
      out["layer_types"].push_back(has_window(mixture, layer) ? "sliding_attention" : "full_attention");
    return;
  }
  for (const char* key : {"use_sliding_window", "max_window_layers", "sliding_window"}) out.erase(key);
  if (mixture.sliding_window || dense.defaults.sliding_window > 0)
    out["sliding_window"] = mixture.sliding_window ? Json(*mixture.sliding_window) : Json(nullptr);
}

}  // namespace

void split_stacks(Checkpoint& checkpoint, const Architecture& architecture, const ModelConfig& config,
                  std::span<const ExpertStack> stacks) {
  std::unordered_map<std::string, StackPlace> places;
  for (const ExpertStack& stack : stacks)
    for (int64_t layer = 0; layer < config.layers; layer++)
      if (std::string name = fill_name(stack.name, layer);
          const StoredTensor* tensor = checkpoint.find(name)) {
        check_stack(*tensor, {&stack, layer}, checkpoint, architecture, config);
        places.emplace(std::move(name), StackPlace{&stack, layer});
      }
  if (places.empty()) return;
  checkpoint.transform([&](const StoredTensor& tensor) {
    const auto place = places.find(tensor.spec.name);
    return place == places.end() ? std::vector<StoredTensor>{tensor}
                                 : split_stack(tensor, place->second, architecture, config);
  });
}

void split_experts(Checkpoint& checkpoint, const Architecture& architecture, const ModelConfig& config) {
  const StackedLayout& stacked = architecture.mixture->stacked;
  const std::array stacks = {
      ExpertStack{std::string(stacked.gate_up), {Role::ffn_gate, Role::ffn_up}},
      ExpertStack{std::string(stacked.down), {Role::ffn_down}},
  };
  split_stacks(checkpoint, architecture, config, stacks);
  const WeightTemplate& router = weight_for(architecture, Role::router);
  if (router.name == stacked.router) return;
  std::unordered_map<std::string, std::string> names;
  for (int64_t layer = 0; layer < config.layers; layer++)
    if (std::string name = fill_name(stacked.router, layer);
        checkpoint.find(name) && !checkpoint.find(weight_name(router, layer)))
      names.emplace(std::move(name), weight_name(router, layer));
  if (names.empty()) return;
  checkpoint.transform([&](StoredTensor tensor) {
    if (const auto name = names.find(tensor.spec.name); name != names.end()) tensor.spec.name = name->second;
    return std::vector<StoredTensor>{std::move(tensor)};
  });
}

std::string count_experts(int64_t experts) {
  return experts == 1 ? "one expert" : fmt::format("{} experts", experts);
}

void check_expert(const ModelConfig& config, int64_t expert, const std::string& name) {
  if (config.experts == 0)
    fail(ErrorKind::config,
         "model \"{}\": {} is a dense {} model and has no experts to choose from; name it without "
         "\"#...\"",
         name, config.where, config.model_type);
  if (expert == kSharedExpert && config.shared_ffn == 0)
    fail(ErrorKind::config, "model \"{}\": this {} model has no shared expert", name, config.model_type);
  if (expert == kSharedExpert || (expert >= 0 && expert < config.experts)) return;
  fail(ErrorKind::config, "model \"{}\": there is no expert {}: the model has {}, {}", name, expert,
       count_experts(config.experts),
       config.experts == 1 ? "#expert=0" : fmt::format("#expert=0 to #expert={}", config.experts - 1));
}

Json expert_config_json(const ModelConfig& mixture, const Architecture& architecture,
                        const Architecture& dense, int64_t expert) {
  Json out = mixture.raw;
  for (const char* key : kDropped) out.erase(key);
  const ExpertKeys& keys = architecture.mixture->keys;
  for (const char* key : {keys.experts, keys.ffn, keys.shared_ffn, keys.shared_count})
    if (key) out.erase(key);
  out["architectures"] = {std::string(dense.class_name)};
  out["model_type"] = std::string(dense.model_type);
  write_sizes(mixture,
              mixture.explicit_head_dim || dense.defaults.head_dim > 0 ||
                  mixture.head_dim * mixture.heads != mixture.hidden,
              out);
  if (expert == kSharedExpert) out["intermediate_size"] = mixture.shared_ffn;
  if (find_weight(dense, Role::o_bias)) out["attention_bias"] = mixture.attention_bias;
  write_rope(mixture.rope, out);
  set_window(out, mixture, dense);
  if (mixture.dtype) out["torch_dtype"] = std::string(info(*mixture.dtype).torch);
  return out;
}

void keep_expert(Checkpoint& checkpoint, const Architecture& architecture, const ModelConfig& mixture,
                 const Architecture& dense, int64_t expert) {
  std::unordered_map<std::string, std::string> names;  // an empty one: left out
  for (const Weight& weight : list_weights(architecture, mixture, checkpoint)) {
    const WeightTemplate* target = find_weight(dense, dense_role(weight.role));
    std::string name = is_kept(weight, expert) && target ? weight_name(*target, weight.layer) : "";
    if (!name.empty() && name != weight.name && checkpoint.find(name))
      fail(ErrorKind::input, "{}: tensor \"{}\" is not part of a {} model", checkpoint.path().string(), name,
           mixture.model_type);
    if (!name.empty() || !is_kept(weight, expert)) names.emplace(weight.name, std::move(name));
  }
  checkpoint.transform([&](StoredTensor tensor) -> std::vector<StoredTensor> {
    if (const auto name = names.find(tensor.spec.name); name != names.end()) {
      if (name->second.empty()) return {};
      tensor.spec.name = name->second;
    }
    return {std::move(tensor)};
  });
}

}  // namespace moerge
