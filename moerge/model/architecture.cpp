#include "moerge/model/architecture.h"

#include <algorithm>
#include <array>
#include <set>

#include "moerge/base/error.h"
#include "moerge/model/architectures/list.h"

namespace moerge {
namespace {

constexpr std::array<const Architecture*, 8> kArchitectures = {&kLlama,   &kMistral,  &kQwen2,    &kQwen3,
                                                               &kMixtral, &kQwen2Moe, &kQwen3Moe, &kDeepseek};

// Enough to see a pattern; a wrong config.json would otherwise print a line for each of a thousand tensors.
constexpr size_t kMaxMessages = 5;

void limit(std::vector<std::string>& messages, const std::string& where) {
  if (messages.size() <= kMaxMessages) return;
  const size_t more = messages.size() - kMaxMessages;
  messages.resize(kMaxMessages);
  messages.push_back(fmt::format("{}: and {} more like these", where, more));
}

}  // namespace

std::span<const Architecture* const> architectures() { return kArchitectures; }

const Architecture* find_architecture(std::string_view model_type) {
  for (const Architecture* row : kArchitectures)
    if (row->model_type == model_type) return row;
  return nullptr;
}

bool is_per_layer(Role role) {
  return role != Role::embedding && role != Role::output_norm && role != Role::output;
}

Role dense_role(Role role) {
  switch (role) {
    case Role::shared_ffn_gate:
      return Role::ffn_gate;
    case Role::shared_ffn_up:
      return Role::ffn_up;
    case Role::shared_ffn_down:
      return Role::ffn_down;
    default:
      return role;
  }
}

Shape expected_shape(Role role, const ModelConfig& c) {
  switch (role) {
    case Role::embedding:
    case Role::output:
      return {c.vocab, c.hidden};
    case Role::output_norm:
    case Role::attention_norm:
    case Role::ffn_norm:
      return {c.hidden};
    case Role::q:
      return {c.heads * c.head_dim, c.hidden};
    case Role::k:
    case Role::v:
      return {c.kv_heads * c.head_dim, c.hidden};
    case Role::o:
      return {c.hidden, c.heads * c.head_dim};
    case Role::q_bias:
      return {c.heads * c.head_dim};
    case Role::k_bias:
    case Role::v_bias:
      return {c.kv_heads * c.head_dim};
    case Role::o_bias:
      return {c.hidden};
    case Role::q_norm:
    case Role::k_norm:
      return {c.head_dim};
    case Role::ffn_gate:
    case Role::ffn_up:
      return {c.ffn, c.hidden};
    case Role::ffn_down:
      return {c.hidden, c.ffn};
    case Role::router:
      return {c.experts, c.hidden};
    case Role::shared_ffn_gate:
    case Role::shared_ffn_up:
      return {c.shared_ffn, c.hidden};
    case Role::shared_ffn_down:
      return {c.hidden, c.shared_ffn};
    case Role::shared_router:
      return {1, c.hidden};
    case Role::ignored:
      return {};
  }
  return {};
}

std::string fill_name(std::string_view name, int64_t layer, int64_t expert) {
  std::string out(name);
  const auto replace = [&](std::string_view hole, int64_t value) {
    if (const size_t at = out.find(hole); at != std::string::npos)
      out.replace(at, hole.size(), std::to_string(value));
  };
  replace("{layer}", layer);
  replace("{expert}", expert);
  return out;
}

std::string weight_name(const WeightTemplate& weight, int64_t layer, int64_t expert) {
  return fill_name(weight.name, layer, expert);
}

const WeightTemplate* find_weight(const Architecture& architecture, Role role) {
  const auto found = std::ranges::find(architecture.weights, role, &WeightTemplate::role);
  return found == architecture.weights.end() ? nullptr : &*found;
}

const WeightTemplate& weight_for(const Architecture& architecture, Role role) {
  if (const WeightTemplate* weight = find_weight(architecture, role)) return *weight;
  fail(ErrorKind::unsupported, "{} models have no such weight", architecture.model_type);
}

namespace {

// Every name that the family can have, present or not, in output order.
std::vector<std::pair<Weight, const WeightTemplate*>> all_weights(const Architecture& architecture,
                                                                  const ModelConfig& config) {
  std::vector<std::pair<Weight, const WeightTemplate*>> out;
  const auto add = [&](const WeightTemplate& weight, int64_t layer, int64_t expert = -1) {
    out.push_back({{weight_name(weight, layer, expert), weight.role, layer, expert}, &weight});
  };
  const auto add_role = [&](Role role) { add(weight_for(architecture, role), -1); };
  add_role(Role::embedding);
  for (int64_t layer = 0; layer < config.layers; layer++)
    for (const WeightTemplate& weight : architecture.weights) {
      if (!is_per_layer(weight.role)) continue;
      if (weight.name.find("{expert}") == std::string_view::npos)
        add(weight, layer);
      else
        for (int64_t expert = 0; expert < config.experts; expert++) add(weight, layer, expert);
    }
  add_role(Role::output_norm);
  add_role(Role::output);
  return out;
}

}  // namespace

std::vector<Weight> list_weights(const Architecture& architecture, const ModelConfig& config,
                                 const Checkpoint& checkpoint) {
  std::vector<Weight> out;
  for (auto& [weight, source] : all_weights(architecture, config))
    if (weight.role != Role::ignored && checkpoint.find(weight.name)) out.push_back(std::move(weight));
  return out;
}

WeightReport check_weights(const Architecture& architecture, const ModelConfig& config,
                           const Checkpoint& checkpoint) {
  WeightReport report;
  const std::string where = checkpoint.path().string();
  // Every layer has a weight of its own. A number that is far off would be answered with an error for each.
  constexpr int64_t kManyLayers = 1000;
  if (const auto tensors = std::ssize(checkpoint.tensors());
      config.layers > tensors && config.layers > kManyLayers) {
    report.errors.push_back(fmt::format("{}: {} says that there are {} layers, and there are only {} tensors",
                                        where, config.source, config.layers, tensors));
    return report;
  }
  std::set<std::string_view> known;
  const auto weights = all_weights(architecture, config);
  for (const auto& [weight, source] : weights) {
    known.insert(weight.name);
    if (weight.role == Role::ignored) continue;
    const StoredTensor* tensor = checkpoint.find(weight.name);
    const Shape expected = expected_shape(weight.role, config);
    if (!tensor) {
      if (!source->required || source->required(config))
        report.errors.push_back(
            fmt::format("{}: tensor \"{}\" {} is missing", where, weight.name, to_string(expected)));
    } else if (tensor->spec.shape != expected) {
      report.errors.push_back(fmt::format("{}: tensor \"{}\" is {}, {} says {}", where, weight.name,
                                          to_string(tensor->spec.shape), config.source, to_string(expected)));
    } else if (!is_float(tensor->spec.dtype) && !(is_quantized(tensor->spec.dtype) && expected.size() == 2)) {
      report.errors.push_back(fmt::format("{}: tensor \"{}\" is {}; f32, f16 and bf16 weights are supported",
                                          where, weight.name, info(tensor->spec.dtype).name()));
    }
  }
  // Whatever else lies under the decoder's own prefix takes part in its forward pass: dropping it would
  // change the model. Outside it are heads for other purposes.
  const std::string_view embedding = weight_for(architecture, Role::embedding).name;
  const std::string_view prefix = embedding.substr(0, embedding.find('.') + 1);
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    if (known.contains(tensor.spec.name)) continue;
    const bool inside = tensor.spec.name.starts_with(prefix);
    (inside ? report.errors : report.warnings)
        .push_back(fmt::format("{}: tensor \"{}\" is not part of a {} model with this config.json{}", where,
                               tensor.spec.name, architecture.model_type, inside ? "" : "; it is left out"));
  }
  limit(report.errors, where);
  limit(report.warnings, where);
  return report;
}

}  // namespace moerge
