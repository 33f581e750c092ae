#include "moerge/model/gguf_model.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>
#include <tuple>

#include "moerge/base/error.h"
#include "moerge/model/gguf_rope.h"
#include "moerge/model/mixture.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

struct Family {
  std::string_view architecture;  // general.architecture
  std::string_view model_type;    // empty: always a mixture
  std::string_view mixture_type;  // where expert_count is there; empty: never a mixture
  bool rotary_rows;               // rows of q and k lie as StoredTensor::rotary_heads says
  bool normalised = false;        // the chosen experts' weights sum to 1, in llama.cpp's src/models
};

// A family that architecture.cpp does not know (yet) is refused there, by its model_type.
constexpr std::array kFamilies = {
    Family{"llama", "llama", "mixtral", true, true},
    Family{"qwen2", "qwen2", "", false},
    Family{"qwen3", "qwen3", "", false},
    Family{"qwen2moe", "", "qwen2_moe", false},
    Family{"qwen3moe", "", "qwen3_moe", false, true},
    Family{"deepseek", "", "deepseek", true},
};

struct Name {
  Role role;
  std::string_view name;
};

constexpr std::array kNames = {
    Name{Role::embedding, "token_embd.weight"},
    Name{Role::output_norm, "output_norm.weight"},
    Name{Role::output, "output.weight"},
    Name{Role::attention_norm, "blk.{}.attn_norm.weight"},
    Name{Role::q, "blk.{}.attn_q.weight"},
    Name{Role::k, "blk.{}.attn_k.weight"},
    Name{Role::v, "blk.{}.attn_v.weight"},
    Name{Role::o, "blk.{}.attn_output.weight"},
    Name{Role::q_bias, "blk.{}.attn_q.bias"},
    Name{Role::k_bias, "blk.{}.attn_k.bias"},
    Name{Role::v_bias, "blk.{}.attn_v.bias"},
    Name{Role::o_bias, "blk.{}.attn_output.bias"},
    Name{Role::q_norm, "blk.{}.attn_q_norm.weight"},
    Name{Role::k_norm, "blk.{}.attn_k_norm.weight"},
    Name{Role::ffn_norm, "blk.{}.ffn_norm.weight"},
    Name{Role::ffn_gate, "blk.{}.ffn_gate.weight"},
    Name{Role::ffn_up, "blk.{}.ffn_up.weight"},
    Name{Role::ffn_down, "blk.{}.ffn_down.weight"},
    Name{Role::router, "blk.{}.ffn_gate_inp.weight"},
    Name{Role::shared_ffn_gate, "blk.{}.ffn_gate_shexp.weight"},
    Name{Role::shared_ffn_up, "blk.{}.ffn_up_shexp.weight"},
    Name{Role::shared_ffn_down, "blk.{}.ffn_down_shexp.weight"},
    Name{Role::shared_router, "blk.{}.ffn_gate_inp_shexp.weight"},
};

// All experts of a layer.
constexpr std::array kStacks = {
    Name{Role::ffn_gate, "blk.{}.ffn_gate_exps.weight"},
    Name{Role::ffn_up, "blk.{}.ffn_up_exps.weight"},
    Name{Role::ffn_down, "blk.{}.ffn_down_exps.weight"},
};

constexpr size_t kMaxShown = 80;  // of a text in a message

// Not weights: the frequency divisors of rope scaling, which config.json states in words.
constexpr std::string_view kRopeDivisors = "rope_freqs.weight";

const Family* find_family(std::string_view architecture) {
  const auto found = std::ranges::find(kFamilies, architecture, &Family::architecture);
  return found == kFamilies.end() ? nullptr : &*found;
}

// The decimal that a float32 was most likely rounded from: 1e-05, not 9.999999747378752e-06.
double shortest_decimal(double value) {
  std::array<char, 32> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), static_cast<float>(value)).ptr;
  double out = value;
  std::from_chars(text.data(), end, out);
  return out;
}

// Reads keys of one architecture ("llama.block_count").
class Keys {
 public:
  Keys(const GgufMetadata& metadata, std::string architecture, std::string where)
      : metadata_(metadata), architecture_(std::move(architecture)), where_(std::move(where)) {}

  std::optional<int64_t> integer(std::string_view name) const {
    const std::string key = full(name);
    const std::optional<int64_t> value = metadata_.integer(key);
    if (!value && metadata_.find(key)) refuse_kind(key, "one integer");
    return value;
  }
  /// A size of the model; without a fallback the key must be there.
  int64_t dimension(std::string_view name, std::optional<int64_t> fallback = {}) const {
    std::optional<int64_t> value = integer(name);
    if (!value) value = fallback;
    if (!value) fail(ErrorKind::input, "{}: its metadata lacks \"{}\"", where_, full(name));
    if (*value < 1 || *value > kMaxDimension)
      fail(ErrorKind::input, "{}: \"{}\" is {}, expected 1 to {}", where_, full(name), *value, kMaxDimension);
    return *value;
  }
  std::optional<double> number(std::string_view name) const {
    const std::string key = full(name);
    const std::optional<double> value = metadata_.number(key);
    if (!value && metadata_.find(key)) refuse_kind(key, "a number");
    if (value && !std::isfinite(*value)) fail(ErrorKind::input, "{}: \"{}\" is {}", where_, key, *value);
    return value ? std::optional(shortest_decimal(*value)) : std::nullopt;
  }
  std::optional<std::string> string(std::string_view name) const {
    const std::string* value = metadata_.string(full(name));
    return value ? std::optional(*value) : std::nullopt;
  }
  bool is_false(std::string_view name) const { return metadata_.boolean(full(name)) == false; }
  std::string full(std::string_view name) const { return fmt::format("{}.{}", architecture_, name); }

  [[noreturn]] void unsupported(std::string_view name, std::string_view why) const {
    fail(ErrorKind::unsupported, "{}: \"{}\" {}", where_, full(name), why);
  }

 private:
  // Some families count heads or FFN columns for each layer; no mixture has room for that.
  [[noreturn]] void refuse_kind(const std::string& key, std::string_view expected) const {
    fail(ErrorKind::unsupported, "{}: \"{}\" should be {} (a list, one for each layer, is not supported)",
         where_, key, expected);
  }

  const GgufMetadata& metadata_;
  std::string architecture_, where_;
};

std::string read_architecture(const GgufFiles& files) {
  const std::string where = files.path.string();
  const std::string* type = files.metadata.string("general.type");
  if (type && *type != "model")
    fail(ErrorKind::unsupported, "{}: a GGUF file of type \"{}\", and a model is expected", where,
         type->substr(0, kMaxShown));
  const std::string* architecture = files.metadata.string("general.architecture");
  if (!architecture) fail(ErrorKind::input, "{}: its metadata lacks \"general.architecture\"", where);
  return *architecture;
}

// model_type of config.json.
std::string model_type_of(const GgufFiles& files, const std::string& architecture, const Family* family) {
  const int64_t experts = files.metadata.integer(architecture + ".expert_count").value_or(0);
  const std::string_view type = !family       ? std::string_view()
                                : experts > 0 ? family->mixture_type
                                              : family->model_type;
  if (!type.empty() || !family) return std::string(family ? type : architecture.substr(0, kMaxShown));
  fail(ErrorKind::unsupported, "{}: \"{}.expert_count\" is {}, and {}", files.path.string(), architecture,
       experts, experts > 0 ? "this family has no mixtures" : "this family has only mixtures");
}

// float16 for quantised matrices: its 11 bits keep more of scale x integer than bfloat16's 8.
DType matrix_dtype(const GgufFiles& files) {
  std::optional<DType> dtype;
  for (const GgufFiles::Tensor& tensor : files.tensors) {
    const TensorSpec& spec = tensor.tensor.spec;
    const bool is_router = spec.name.find(".ffn_gate_inp") != std::string::npos;  // float32 in any file
    if (spec.shape.size() < 2 || is_router) continue;
    if (!is_weight_type(spec.dtype)) return DType::f16;
    dtype = !dtype || *dtype == spec.dtype ? spec.dtype : DType::f32;
  }
  return dtype.value_or(DType::f32);
}

std::vector<float> read_floats(const GgufFiles::Tensor& tensor) {
  const TensorSpec& spec = tensor.tensor.spec;
  std::vector<float> values(static_cast<size_t>(spec.elements()));
  to_f32(spec.dtype,
         tensor.file->bytes().subspan(static_cast<size_t>(tensor.tensor.offset),
                                      static_cast<size_t>(spec.bytes())),
         values);
  return values;
}

Json yarn_scaling(const Keys& keys, double factor) {
  if (keys.number("rope.scaling.yarn_ext_factor").value_or(1) != 1)
    keys.unsupported("rope.scaling.yarn_ext_factor", "is not 1, which config.json cannot say");
  Json scaling = {{"rope_type", "yarn"}, {"factor", factor}};
  if (const auto length = keys.integer("rope.scaling.original_context_length"))
    scaling["original_max_position_embeddings"] = *length;
  for (const auto& [name, key] : {std::pair("rope.scaling.yarn_attn_factor", "attention_factor"),
                                  std::pair("rope.scaling.yarn_beta_fast", "beta_fast"),
                                  std::pair("rope.scaling.yarn_beta_slow", "beta_slow")})
    if (const auto value = keys.number(name)) scaling[key] = *value;
  return scaling;
}

// What a mixture's configuration says beside what a dense model's does.
void add_mixture(Json& json, const Keys& keys, const Family& family, const ExpertKeys& names) {
  for (const auto& [name, most, why] :
       {std::tuple("leading_dense_block_count", 0, "a mixture with dense layers in between is not supported"),
        std::tuple("expert_group_count", 1, "experts in groups are not supported"),
        std::tuple("expert_gating_func", 1, "only a softmax over the experts (1) is supported"),
        std::tuple("interleave_moe_layer_step", 1,
                   "a mixture with dense layers in between is not supported")})
    if (const auto value = keys.integer(name); value && *value > most)
      keys.unsupported(name, fmt::format("is {}: {}", *value, why));
  const int64_t ffn = json["intermediate_size"].get<int64_t>(), used = keys.dimension("expert_used_count");
  json[names.experts] = keys.dimension("expert_count");
  json["num_experts_per_tok"] = used;
  // The fallbacks are llama.cpp's for files that are older than the keys.
  if (names.ffn) json[names.ffn] = keys.dimension("expert_feed_forward_length", ffn / used);
  if (names.shared_ffn) json[names.shared_ffn] = keys.dimension("expert_shared_feed_forward_length", ffn);
  if (const auto dense = keys.integer("leading_dense_block_count")) json["first_k_dense_replace"] = *dense;
  if (names.shared_count) json[names.shared_count] = keys.integer("expert_shared_count").value_or(0);
  if (!names.always_normalised) json["norm_topk_prob"] = family.normalised;
  if (const auto scale = keys.number("expert_weights_scale"); scale && *scale != 0 && *scale != 1) {
    if (!names.scale)
      keys.unsupported("expert_weights_scale", "is not 1, which config.json of this family cannot say");
    json[names.scale] = *scale;
  }
}

// The rope_scaling object, or null.
Json rope_scaling(const GgufFiles& files, const Keys& keys, int64_t head_dim, double theta) {
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"})
    if (files.find(name))
      fail(ErrorKind::unsupported, "{}: rope scaling by \"{}\" (longrope) is not supported",
           files.path.string(), name);
  const std::string type = keys.string("rope.scaling.type").value_or("linear");  // llama.cpp's default
  double factor = keys.number("rope.scaling.factor").value_or(keys.number("rope.scale_linear").value_or(1));
  if (factor == 0) factor = 1;
  if (factor < 0) keys.unsupported("rope.scaling.factor", "is negative");
  if (type != "none" && type != "linear" && type != "yarn")
    keys.unsupported("rope.scaling.type",
                     fmt::format("is \"{}\", which is not supported", type.substr(0, kMaxShown)));
  const bool scaled = type != "none" && factor != 1;
  const Json stated = !scaled          ? Json(nullptr)
                      : type == "yarn" ? yarn_scaling(keys, factor)
                                       : Json{{"rope_type", "linear"}, {"factor", factor}};
  const GgufFiles::Tensor* divisors = files.find(kRopeDivisors);
  if (!divisors) return stated;
  const TensorSpec& spec = divisors->tensor.spec;
  if (spec.shape != Shape{head_dim / 2} || !is_float(spec.dtype))
    fail(ErrorKind::input, "{}: \"{}\" is {} {}, float32 [{}] is expected", files.path.string(), spec.name,
         info(spec.dtype).name(), to_string(spec.shape), head_dim / 2);
  const std::optional<Json> scaling = llama3_scaling(read_floats(*divisors), theta);
  if (!scaling || (!scaling->is_null() && !stated.is_null()))
    fail(ErrorKind::unsupported,
         "{}: \"{}\" holds rope frequencies that no rope_scaling of type llama3 gives, and config.json can "
         "say "
         "nothing else; use the model's folder instead of this file",
         files.path.string(), spec.name);
  return scaling->is_null() ? stated : *scaling;
}

void set_token_ids(Json& json, const GgufMetadata& metadata) {
  for (const auto& [from, to] : {std::pair("tokenizer.ggml.bos_token_id", "bos_token_id"),
                                 std::pair("tokenizer.ggml.eos_token_id", "eos_token_id"),
                                 std::pair("tokenizer.ggml.padding_token_id", "pad_token_id")})
    if (const auto id = metadata.integer(from); id >= 0 && id < json["vocab_size"]) json[to] = *id;
}

// Layer of "blk.7.attn_q.weight" when it is spelt as in `pattern` ("blk.{}.attn_q.weight"), -1 for a pattern
// without a layer.
std::optional<int64_t> match(std::string_view pattern, std::string_view name) {
  const size_t hole = pattern.find("{}");
  if (hole == std::string_view::npos) return name == pattern ? std::optional<int64_t>(-1) : std::nullopt;
  const std::string_view after = pattern.substr(hole + 2);
  if (!name.starts_with(pattern.substr(0, hole)) || !name.ends_with(after) ||
      name.size() <= hole + after.size())
    return {};
  const std::string_view digits = name.substr(hole, name.size() - hole - after.size());
  int64_t layer = 0;
  const std::errc error = std::from_chars(digits.data(), digits.data() + digits.size(), layer).ec;
  if (error != std::errc() || layer < 0 || std::to_string(layer) != digits) return {};
  return layer;
}

// Files of early 2024 have one tensor an expert: "blk.7.ffn_gate.3.weight" is "blk.7.ffn_gate.weight" of
// expert 3. -1 for other names.
std::pair<std::string, int64_t> split_expert(const std::string& name) {
  constexpr std::string_view kEnd = ".weight";
  const size_t end = name.size() - std::min(name.size(), kEnd.size());
  const size_t dot = end == 0 ? std::string::npos : name.rfind('.', end - 1);
  if (dot == std::string::npos || !name.ends_with(kEnd)) return {name, -1};
  const std::optional<int64_t> expert = match("{}", name.substr(dot + 1, end - dot - 1));
  if (!expert) return {name, -1};
  return {name.substr(0, dot) + std::string(kEnd), *expert};
}

bool is_stack(const std::string& name, int64_t layers) {
  return std::ranges::any_of(kStacks, [&](const Name& stack) {
    const std::optional<int64_t> layer = match(stack.name, name);
    return layer && *layer < layers;
  });
}

// One tensor an expert, and the gate of the shared expert as a matrix of one row: GGUF writers drop such a
// dimension.
void restore_shapes(Checkpoint& checkpoint, const Architecture& architecture, const ModelConfig& config) {
  std::vector<ExpertStack> stacks;
  for (const Name& row : kStacks) {
    std::string name(row.name);
    stacks.push_back({name.replace(name.find("{}"), 2, "{layer}"), {row.role}});
  }
  split_stacks(checkpoint, architecture, config, stacks);
  const WeightTemplate* gate = find_weight(architecture, Role::shared_router);
  if (!gate) return;
  std::set<std::string> gates;
  for (int64_t layer = 0; layer < config.layers; layer++) gates.insert(weight_name(*gate, layer));
  checkpoint.transform([&](StoredTensor tensor) {
    if (tensor.spec.shape.size() == 1 && gates.contains(tensor.spec.name))
      tensor.spec.shape.insert(tensor.spec.shape.begin(), 1);
    return std::vector<StoredTensor>{std::move(tensor)};
  });
}

}  // namespace

std::string_view gguf_weight_name(Role role) {
  const auto found = std::ranges::find(kNames, role, &Name::role);
  return found == kNames.end() ? std::string_view() : found->name;
}

Json gguf_config_json(const GgufFiles& files) {
  const std::string architecture = read_architecture(files), where = files.path.string();
  const Family* family = find_family(architecture);
  Json json = {{"model_type", model_type_of(files, architecture, family)}};
  const Architecture* known = find_architecture(json["model_type"].get<std::string>());
  if (!known) return json;  // parse_model_config() says what is supported
  const Keys keys(files.metadata, architecture, where);
  json["architectures"] = Json::array({known->class_name});
  const int64_t hidden = keys.dimension("embedding_length"), heads = keys.dimension("attention.head_count");
  json["hidden_size"] = hidden;
  json["intermediate_size"] = keys.dimension("feed_forward_length");
  json["num_hidden_layers"] = keys.dimension("block_count");
  json["num_attention_heads"] = heads;
  json["num_key_value_heads"] = keys.dimension("attention.head_count_kv", heads);
  json["max_position_embeddings"] = keys.dimension("context_length");

  const int64_t head_dim = keys.dimension("attention.key_length", std::max<int64_t>(1, hidden / heads));
  for (const char* name : {"attention.value_length", "rope.dimension_count"})
    if (keys.dimension(name, head_dim) != head_dim)
      keys.unsupported(name, fmt::format("is not the size of a key, {}", head_dim));
  if (keys.is_false("attention.causal"))
    keys.unsupported("attention.causal", "is false: not a language model");
  if (head_dim * heads != hidden || known->defaults.head_dim > 0) json["head_dim"] = head_dim;

  json["hidden_act"] = "silu";
  const std::optional<double> epsilon = keys.number("attention.layer_norm_rms_epsilon");
  if (!epsilon)
    fail(ErrorKind::input, "{}: its metadata lacks \"{}\"", where,
         keys.full("attention.layer_norm_rms_epsilon"));
  json["rms_norm_eps"] = *epsilon;
  const double theta = keys.number("rope.freq_base").value_or(10000.0);
  json["rope_theta"] = theta;
  json["rope_scaling"] = rope_scaling(files, keys, head_dim, theta);
  json["attention_bias"] = files.find("blk.0.attn_q.bias") != nullptr;
  json["mlp_bias"] = false;
  json["tie_word_embeddings"] = files.find(gguf_weight_name(Role::output)) == nullptr;
  const GgufFiles::Tensor* embedding = files.find(gguf_weight_name(Role::embedding));
  if (!embedding || embedding->tensor.spec.shape.size() != 2)
    fail(ErrorKind::input, "{}: no matrix \"{}\" in it", where, gguf_weight_name(Role::embedding));
  json["vocab_size"] = embedding->tensor.spec.shape[0];
  if (known->mixture) add_mixture(json, keys, *family, known->mixture->keys);
  set_token_ids(json, files.metadata);
  json["torch_dtype"] = std::string(info(matrix_dtype(files)).torch);
  return json;
}

ModelConfig gguf_model_config(const GgufFiles& files) {
  ModelConfig config = parse_model_config(gguf_config_json(files), files.path.string());
  config.source = "its metadata";
  return config;
}

Checkpoint gguf_checkpoint(GgufFiles files, const ModelConfig& config) {
  const std::string where = files.path.string();
  const Family* family = find_family(*files.metadata.string("general.architecture"));
  const Architecture& architecture = *find_architecture(config.model_type);
  const auto rotary_heads = [&](Role role) -> int64_t {
    if (!family || !family->rotary_rows) return 0;
    if (role == Role::q || role == Role::q_bias) return config.heads;
    return role == Role::k || role == Role::k_bias ? config.kv_heads : 0;
  };
  Checkpoint checkpoint(std::move(files), [&](const TensorSpec& spec) -> GgufAlias {
    if (spec.name == kRopeDivisors) return {};
    if (architecture.mixture && is_stack(spec.name, config.layers)) return {spec.name};
    const auto [name, expert] = split_expert(spec.name);
    for (const Name& row : kNames) {
      const std::optional<int64_t> layer = match(row.name, name);
      const WeightTemplate* weight = find_weight(architecture, row.role);
      if (!layer || *layer >= config.layers || !weight || expert >= config.experts) continue;
      const bool of_expert = weight->name.find("{expert}") != std::string_view::npos;
      if (of_expert == (expert >= 0)) return {weight_name(*weight, *layer, expert), rotary_heads(row.role)};
    }
    fail(ErrorKind::unsupported, "{}: tensor \"{}\" is not part of a {} model with this metadata", where,
         spec.name.substr(0, kMaxShown), config.model_type);
  });
  if (architecture.mixture) restore_shapes(checkpoint, architecture, config);
  return checkpoint;
}

}  // namespace moerge
