#include "moerge/model/config.h"

#include <algorithm>
#include <limits>

#include "moerge/base/error.h"
#include "moerge/base/suggest.h"
#include "moerge/model/architecture.h"
#include "moerge/model/quantization.h"

namespace moerge {
namespace {

// transformers 5 writes it for several families that had a key of their own.
constexpr const char* kExpertCount = "num_local_experts";

constexpr size_t kMaxShown = 80;  // of a value in a message
constexpr int64_t kMaxExperts = 4096, kMaxExpertLayers = 1'000'000;

class Reader {
 public:
  Reader(const Json& json, const std::string& where) : json_(json), where_(where) {}

  int64_t dimension(const char* key, int64_t fallback) const {
    const int64_t value = json_int(json_, key, where_).value_or(fallback);
    if (value < 1 || value > kMaxDimension)
      fail(ErrorKind::input, "{}: \"{}\" is {}, expected 1 to {}", where_, key, value, kMaxDimension);
    return value;
  }
  double positive(const char* key, double fallback) const {
    const double value = json_number(json_, key, where_).value_or(fallback);
    if (!(value > 0))
      fail(ErrorKind::input, "{}: \"{}\" is {}, expected a positive number", where_, key, value);
    return value;
  }
  bool flag(const char* key) const { return json_bool(json_, key, where_).value_or(false); }

  /// An object, or null when absent; anything else is an error.
  const Json* object(const char* key) const {
    const auto found = json_.find(key);
    if (found == json_.end() || found->is_null()) return nullptr;
    if (!found->is_object()) fail(ErrorKind::input, "{}: \"{}\" should be an object", where_, key);
    return &*found;
  }

 private:
  const Json& json_;
  const std::string& where_;
};

// transformers 5 can keep rope parameters for every kind of layer apart, by the names in layer_types. They
// are read when they are the same for all.
const Json& same_for_all_layers(const Json& parameters, const std::string& where) {
  if (std::ranges::none_of(parameters, [](const Json& value) { return value.is_object(); }))
    return parameters;
  const Json& first = *parameters.begin();
  if (std::ranges::any_of(parameters, [&](const Json& value) { return value != first; }))
    fail(ErrorKind::unsupported,
         "{}: \"rope_parameters\" differ from one kind of layer to the other, which is not supported", where);
  return first;
}

// transformers 5 writes one "rope_parameters" object with rope_theta in it; older versions "rope_theta"
// beside "rope_scaling", whose kind is in "rope_type" or, older still, "type".
RopeConfig read_rope(const Reader& reader, double default_theta, const std::string& where) {
  RopeConfig rope;
  rope.theta = reader.positive("rope_theta", default_theta);
  const Json* scaling = reader.object("rope_parameters");
  if (!scaling) scaling = reader.object("rope_scaling");
  if (!scaling) return rope;
  Json kept = same_for_all_layers(*scaling, where);
  if (const auto theta = json_number(kept, "rope_theta", where)) {
    if (!(*theta > 0)) fail(ErrorKind::input, "{}: \"rope_theta\" is {}", where, *theta);
    rope.theta = *theta;
  }
  kept.erase("rope_theta");
  const auto type = json_string(kept, "rope_type", where);
  const auto old_type = json_string(kept, "type", where);
  rope.type = type.value_or(old_type.value_or("default"));
  // transformers reads either word for the kind of scaling; from here on there is one.
  kept.erase("type");
  kept.erase("rope_type");
  if (rope.type == "default" && kept.empty()) return rope;
  kept["rope_type"] = rope.type;
  rope.scaling = std::move(kept);
  return rope;
}

// Whether layer_types, where config.json has it, names this layer; else what the family's own rule says.
std::vector<bool> windowed_layers(const Json& json, Windows rule, const ModelConfig& config) {
  const std::string& where = config.where;
  const auto types = json.find("layer_types");
  const bool listed = rule != Windows::all && types != json.end() && !types->is_null();
  if (listed && (!types->is_array() || std::ssize(*types) != config.layers))
    fail(ErrorKind::input, "{}: \"layer_types\" should be a list of {} entries, one for each layer", where,
         config.layers);
  const int64_t bound = json_int(json, "max_window_layers", where).value_or(28);
  std::vector<bool> windowed(static_cast<size_t>(config.layers));
  for (size_t i = 0; i < windowed.size(); i++) {
    const auto layer = static_cast<int64_t>(i);
    if (!listed) {
      windowed[i] = rule == Windows::late   ? layer >= bound
                    : rule == Windows::even ? layer % 2 == 0 && layer < bound
                                            : true;
      continue;
    }
    const Json& type = (*types)[i];
    windowed[i] = type == "sliding_attention";
    if (!windowed[i] && type != "full_attention")
      fail(ErrorKind::unsupported,
           "{}: \"layer_types\" holds {}; \"full_attention\" and \"sliding_attention\" are supported", where,
           type.dump().substr(0, kMaxShown));
  }
  return windowed;
}

// As transformers 5 reads them; its version 4 gives every layer of a qwen2_moe a window.
void read_windows(const Json& json, const Architecture& family, const Reader& reader, ModelConfig& config) {
  if (family.windows == Windows::none) return;
  if (family.optional_window && !reader.flag("use_sliding_window")) return;
  if (!json.contains("sliding_window") && family.defaults.sliding_window > 0)
    config.sliding_window = family.defaults.sliding_window;
  else
    config.sliding_window = json_int(json, "sliding_window", config.where);
  if (!config.sliding_window) return;
  config.windowed = windowed_layers(json, family.windows, config);
  if (std::ranges::find(config.windowed, true) == config.windowed.end()) config.sliding_window.reset();
  if (std::ranges::find(config.windowed, false) == config.windowed.end() || !config.sliding_window)
    config.windowed.clear();
}

// Mixtures whose layers are not all alike, or whose router works otherwise, are refused.
void check_mixture(const Json& json, const ModelConfig& config) {
  const std::string& where = config.where;
  const auto refuse = [&](std::string_view key, const auto& value, std::string_view why) {
    fail(ErrorKind::unsupported, "{}: \"{}\" is {}: {}", where, key, value, why);
  };
  constexpr std::string_view kDense = "a mixture with dense layers in between is not supported";
  if (const auto first = json_int(json, "first_k_dense_replace", where); first.value_or(0) != 0)
    refuse("first_k_dense_replace", *first, kDense);
  for (const char* key : {"decoder_sparse_step", "moe_layer_freq"})
    if (const auto step = json_int(json, key, where); step.value_or(1) != 1) refuse(key, *step, kDense);
  if (const auto layers = json.find("mlp_only_layers");
      layers != json.end() && layers->is_array() && !layers->empty())
    refuse("mlp_only_layers", layers->dump(), kDense);
  if (const auto scores = json_string(json, "scoring_func", where); scores && *scores != "softmax")
    refuse("scoring_func", *scores, "only \"softmax\" is supported");
  if (const auto method = json_string(json, "topk_method", where); method && *method != "greedy")
    refuse("topk_method", *method, "only \"greedy\" is supported");
}

void read_mixture(const Json& json, const Mixture& mixture, const Reader& reader, ModelConfig& config) {
  const ExpertKeys& keys = mixture.keys;
  check_mixture(json, config);
  const bool other_key = !json.contains(keys.experts) && json.contains(kExpertCount);
  const char* key = other_key ? kExpertCount : keys.experts;
  config.experts = reader.dimension(key, keys.default_experts);
  if (config.experts > kMaxExperts || config.experts * config.layers > kMaxExpertLayers)
    fail(ErrorKind::input, "{}: \"{}\" is {}", config.where, key, config.experts);
  config.experts_per_token = reader.dimension("num_experts_per_tok", keys.default_experts_per_token);
  if (config.experts_per_token > config.experts)
    fail(ErrorKind::input, "{}: \"num_experts_per_tok\" is {}, and there are {} experts", config.where,
         config.experts_per_token, config.experts);
  if (keys.ffn) config.ffn = reader.dimension(keys.ffn, keys.default_ffn);
  if (keys.shared_ffn) config.shared_ffn = reader.dimension(keys.shared_ffn, keys.default_shared_ffn);
  if (keys.shared_count) {
    const int64_t count = json_int(json, keys.shared_count, config.where).value_or(0);
    if (count < 0 || count > kMaxExperts)
      fail(ErrorKind::input, "{}: \"{}\" is {}", config.where, keys.shared_count, count);
    config.shared_ffn = count * config.ffn;
  }
  config.normalised = keys.always_normalised || reader.flag("norm_topk_prob");
  if (keys.never_single && config.experts_per_token == 1) config.normalised = false;
  if (keys.scale) config.routed_scale = reader.positive(keys.scale, 1.0);
}

}  // namespace

ModelConfig read_model_config(const std::filesystem::path& folder, Families families) {
  const std::filesystem::path file = folder / "config.json";
  if (!std::filesystem::is_directory(folder)) fail(ErrorKind::input, "{} is not a folder", folder.string());
  if (!std::filesystem::exists(file))
    fail(ErrorKind::input, "{}: no config.json in this folder", folder.string());
  return parse_model_config(read_json(file), file.string(), families);
}

namespace {

void read_dtype(const Json& json, const std::string& where, ModelConfig& config) {
  for (const char* key : {"torch_dtype", "dtype"})
    if (const auto name = json_string(json, key, where))
      if (const DTypeInfo* dtype = find_dtype(*name); dtype && is_weight_type(dtype->dtype))
        config.dtype = dtype->dtype;
}

// What every family calls the same.
void read_common(const Json& json, const std::string& where, ModelConfig& config) {
  const Reader reader(json, where);
  if (json.contains("vocab_size")) config.vocab = reader.dimension("vocab_size", 1);
  config.tied_embeddings = reader.flag("tie_word_embeddings");
  read_dtype(json, where, config);
  config.raw = json;
}

}  // namespace

ModelConfig parse_model_config(const Json& json, const std::string& where, Families families) {
  if (!json.is_object()) fail(ErrorKind::input, "{}: should be a JSON object", where);
  ModelConfig config;
  config.where = where;
  config.model_type = json_string(json, "model_type", where).value_or("");
  const Architecture* family = find_architecture(config.model_type);
  if (!family && families == Families::any) {
    if (const Json* quantization = find_quantization(json)) check_quantization(*quantization, where);
    read_common(json, where, config);
    return config;
  }
  if (!family) {
    std::vector<std::string_view> known;
    for (const Architecture* row : architectures()) known.push_back(row->model_type);
    fail(ErrorKind::unsupported, "{}: model_type \"{}\" is not supported (supported: {})", where,
         config.model_type, fmt::join(known, ", "));
  }
  if (const Json* quantization = find_quantization(json)) check_quantization(*quantization, where);

  const ConfigDefaults& defaults = family->defaults;
  const Reader reader(json, where);
  config.layers = reader.dimension("num_hidden_layers", defaults.layers);
  if (config.layers > 100'000)
    fail(ErrorKind::input, "{}: \"num_hidden_layers\" is {}", where, config.layers);
  config.hidden = reader.dimension("hidden_size", defaults.hidden);
  config.ffn = reader.dimension("intermediate_size", defaults.ffn);
  config.heads = reader.dimension("num_attention_heads", defaults.heads);
  // An explicit null means "as many as heads" whatever the class default is.
  const bool null_kv = json.contains("num_key_value_heads") && json["num_key_value_heads"].is_null();
  const int64_t default_kv = null_kv || defaults.kv_heads == 0 ? config.heads : defaults.kv_heads;
  config.kv_heads = reader.dimension("num_key_value_heads", default_kv);
  config.explicit_head_dim = json_int(json, "head_dim", where).has_value();
  if (!config.explicit_head_dim && defaults.head_dim == 0 && config.hidden % config.heads != 0)
    fail(ErrorKind::input,
         "{}: hidden_size {} is no multiple of num_attention_heads {}, and there is no head_dim", where,
         config.hidden, config.heads);
  const int64_t default_head_dim =
      defaults.head_dim > 0 ? defaults.head_dim : std::max<int64_t>(1, config.hidden / config.heads);
  config.head_dim = reader.dimension("head_dim", default_head_dim);
  if (config.heads % config.kv_heads != 0)
    fail(ErrorKind::input, "{}: num_attention_heads {} is no multiple of num_key_value_heads {}", where,
         config.heads, config.kv_heads);
  config.vocab = reader.dimension("vocab_size", defaults.vocab);
  config.max_positions = reader.dimension("max_position_embeddings", defaults.max_positions);
  config.norm_epsilon = reader.positive("rms_norm_eps", defaults.norm_epsilon);
  config.activation = json_string(json, "hidden_act", where).value_or("silu");
  config.tied_embeddings = reader.flag("tie_word_embeddings");
  config.attention_bias = reader.flag("attention_bias");
  config.mlp_bias = reader.flag("mlp_bias");
  read_windows(json, *family, reader, config);
  if (family->mixture) read_mixture(json, *family->mixture, reader, config);
  config.rope = read_rope(reader, defaults.rope_theta, where);
  read_dtype(json, where, config);
  config.raw = json;
  return config;
}

void write_sizes(const ModelConfig& config, bool with_head_dim, Json& out) {
  out["vocab_size"] = config.vocab;
  out["hidden_size"] = config.hidden;
  out["intermediate_size"] = config.ffn;
  out["num_hidden_layers"] = config.layers;
  out["num_attention_heads"] = config.heads;
  out["num_key_value_heads"] = config.kv_heads;
  if (with_head_dim)
    out["head_dim"] = config.head_dim;
  else
    out.erase("head_dim");
  out["hidden_act"] = config.activation;
  out["max_position_embeddings"] = config.max_positions;
  out["rms_norm_eps"] = config.norm_epsilon;
  out["tie_word_embeddings"] = config.tied_embeddings;
}

void write_rope(const RopeConfig& rope, Json& out) {
  out["rope_theta"] = rope.theta;
  if (rope.scaling.is_null()) return;
  out["rope_scaling"] = rope.scaling;
  // The two kinds that are older than "rope_type": readers of their time look for "type".
  if (rope.type == "linear" || rope.type == "dynamic") out["rope_scaling"]["type"] = rope.type;
}

}  // namespace moerge
