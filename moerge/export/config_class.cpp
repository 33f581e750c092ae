#include "moerge/export/config_class.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace moerge {
namespace {

constexpr unsigned kOptionalInteger = kInteger | kNothing;

// Every class declares these the same way.
constexpr ConfigField kShared[] = {
    {"hidden_act", kText, R"("silu")"},
    {"initializer_range", kFloat, ""},
    {"use_cache", kFlag, ""},
    {"tie_word_embeddings", kFlag, "false"},
    {"pad_token_id", kOptionalInteger, ""},
    {"bos_token_id", kOptionalInteger, ""},
    {"eos_token_id", kOptionalInteger | kIntegers, ""},
};

constexpr ConfigField kLlamaFields[] = {
    {"vocab_size", kInteger, "32000"},
    {"hidden_size", kInteger, "4096"},
    {"intermediate_size", kInteger, "11008"},
    {"num_hidden_layers", kInteger, "32"},
    {"num_attention_heads", kInteger, "32"},
    {"num_key_value_heads", kOptionalInteger, "null"},
    {"max_position_embeddings", kInteger, "2048"},
    {"rms_norm_eps", kFloat, "1e-6"},
    {"head_dim", kOptionalInteger, "null"},
    {"pretraining_tp", kOptionalInteger, ""},
    {"attention_bias", kFlag, ""},
    {"attention_dropout", kInteger | kFloat | kNothing, ""},
    {"mlp_bias", kFlag, ""},
};

constexpr ConfigField kMistralFields[] = {
    {"vocab_size", kInteger, "32000"},
    {"hidden_size", kInteger, "4096"},
    {"intermediate_size", kInteger, "14336"},
    {"num_hidden_layers", kInteger, "32"},
    {"num_attention_heads", kInteger, "32"},
    {"num_key_value_heads", kInteger, "8"},
    {"max_position_embeddings", kInteger, "131072"},
    {"rms_norm_eps", kFloat, "1e-6"},
    {"head_dim", kOptionalInteger, "null"},
    {"sliding_window", kOptionalInteger, "4096"},
    {"attention_dropout", kInteger | kFloat, ""},
};

constexpr ConfigField kMixtralFields[] = {
    {"vocab_size", kInteger, "32000"},
    {"hidden_size", kInteger, "4096"},
    {"intermediate_size", kInteger, "14336"},
    {"num_hidden_layers", kInteger, "32"},
    {"num_attention_heads", kInteger, "32"},
    {"num_key_value_heads", kInteger, "8"},
    {"max_position_embeddings", kInteger, "131072"},
    {"rms_norm_eps", kFloat, "1e-5"},
    {"head_dim", kOptionalInteger, "null"},
    {"sliding_window", kOptionalInteger, "null"},
    {"attention_dropout", kInteger | kFloat, ""},
    {"num_experts_per_tok", kInteger, "2"},
    {"num_local_experts", kInteger, "8"},
    {"output_router_logits", kFlag, ""},
    {"router_aux_loss_coef", kFloat, ""},
    {"router_jitter_noise", kFloat, ""},
};

constexpr ConfigField kQwen2Fields[] = {
    {"vocab_size", kInteger, "151936"},
    {"hidden_size", kInteger, "4096"},
    {"intermediate_size", kInteger, "22016"},
    {"num_hidden_layers", kInteger, "32"},
    {"num_attention_heads", kInteger, "32"},
    {"num_key_value_heads", kOptionalInteger, "32"},
    {"max_position_embeddings", kInteger, "32768"},
    {"rms_norm_eps", kFloat, "1e-6"},
    {"use_sliding_window", kFlag, "false"},
    {"sliding_window", kOptionalInteger, "4096"},
    {"max_window_layers", kInteger, ""},
    {"layer_types", kTexts | kNothing, ""},
    {"attention_dropout", kInteger | kFloat, ""},
};

constexpr ConfigField kQwen3Fields[] = {
    {"vocab_size", kInteger, "151936"},
    {"hidden_size", kInteger, "4096"},
    {"intermediate_size", kInteger, "22016"},
    {"num_hidden_layers", kInteger, "32"},
    {"num_attention_heads", kInteger, "32"},
    {"num_key_value_heads", kOptionalInteger, "32"},
    {"max_position_embeddings", kInteger, "32768"},
    {"rms_norm_eps", kFloat, "1e-6"},
    {"head_dim", kInteger, "128"},
    {"attention_bias", kFlag, ""},
    {"use_sliding_window", kFlag, "false"},
    {"sliding_window", kOptionalInteger, "4096"},
    {"max_window_layers", kInteger, ""},
    {"layer_types", kTexts | kNothing, ""},
    {"attention_dropout", kInteger | kFloat, ""},
};

constexpr ConfigField kQwen2MoeFields[] = {
    {"vocab_size", kInteger, "151936"},
    {"hidden_size", kInteger, "2048"},
    {"intermediate_size", kInteger, "5632"},
    {"num_hidden_layers", kInteger, "24"},
    {"num_attention_heads", kInteger, "16"},
    {"num_key_value_heads", kOptionalInteger, "16"},
    {"max_position_embeddings", kInteger, "32768"},
    {"rms_norm_eps", kFloat, "1e-6"},
    {"use_sliding_window", kFlag, "false"},
    {"sliding_window", kOptionalInteger, "4096"},
    {"max_window_layers", kInteger, ""},
    {"attention_dropout", kInteger | kFloat, ""},
    {"decoder_sparse_step", kInteger, "1"},
    {"moe_intermediate_size", kInteger, "1408"},
    {"shared_expert_intermediate_size", kInteger, "5632"},
    {"num_experts_per_tok", kInteger, "4"},
    {"num_experts", kInteger, "60"},
    {"norm_topk_prob", kFlag, "false"},
    {"output_router_logits", kFlag, ""},
    {"router_aux_loss_coef", kFloat, ""},
    {"mlp_only_layers", kIntegers | kNothing, "[]"},
    {"qkv_bias", kFlag, ""},
    {"layer_types", kTexts | kNothing, ""},
};

constexpr ConfigField kQwen3MoeFields[] = {
    {"vocab_size", kInteger, "151936"},
    {"hidden_size", kInteger, "2048"},
    {"intermediate_size", kInteger, "6144"},
    {"num_hidden_layers", kInteger, "24"},
    {"num_attention_heads", kInteger, "32"},
    {"num_key_value_heads", kInteger, "4"},
    {"max_position_embeddings", kInteger, "32768"},
    {"rms_norm_eps", kFloat, "1e-6"},
    {"attention_bias", kFlag, ""},
    {"use_sliding_window", kFlag, "false"},
    {"sliding_window", kOptionalInteger, "4096"},
    {"attention_dropout", kInteger | kFloat, ""},
    {"decoder_sparse_step", kInteger, "1"},
    {"moe_intermediate_size", kInteger, "768"},
    {"num_experts_per_tok", kInteger, "8"},
    {"num_experts", kInteger, "128"},
    {"norm_topk_prob", kFlag, "false"},
    {"output_router_logits", kFlag, ""},
    {"router_aux_loss_coef", kFloat, ""},
    {"mlp_only_layers", kIntegers | kNothing, "[]"},
};

// A file of model_type "mistral" with "layer_types" is read as this class.
constexpr ConfigClass kMinistralConfig = {
    .model_type = "ministral", .rope_theta = 10000.0, .fields = kMistralFields, .has_layer_types = true};

// Settings of generation, which a class drops from config.json.
constexpr std::string_view kGenerationKeys[] = {
    "max_length", "min_length", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty"};

constexpr std::string_view kTorchTypes[] = {
    "bfloat16", "float16", "float32", "float64",        "half",  "float", "double", "float8_e4m3fn",
    "int8",     "int16",   "int32",   "float8_e5m2",    "int64", "uint8", "long",   "float8_e4m3fnuz",
    "bool",     "uint16",  "uint32",  "float8_e5m2fnuz"};

constexpr std::string_view kLayerTypes[] = {"full_attention",
                                            "sliding_attention",
                                            "chunked_attention",
                                            "window_attention",
                                            "conv",
                                            "indexed_attention",
                                            "moe",
                                            "hybrid",
                                            "compressed_sparse_attention",
                                            "hybrid_sliding",
                                            "minimax_m3_sparse",
                                            "heavily_compressed_attention",
                                            "linear_attention",
                                            "mamba",
                                            "reference_sliding_attention",
                                            "attention",
                                            "qwen_sparse_attention",
                                            "deepseek_sparse_attention"};

// Kinds of rope scaling and the members that they must have.
struct RopeKind {
  std::string_view name;
  std::vector<std::string_view> needs;
};
const std::vector<RopeKind>& rope_kinds() {
  static const std::vector<RopeKind> kinds = {
      {"linear", {"factor"}},
      {"dynamic", {"factor"}},
      {"yarn", {"factor", "original_max_position_embeddings"}},
      {"longrope", {"short_factor", "long_factor", "original_max_position_embeddings"}},
      {"llama3", {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}},
  };
  return kinds;
}

bool all_of(const Json& list, bool (Json::*is)() const noexcept) {
  return list.is_array() && std::ranges::all_of(list, [&](const Json& item) { return (item.*is)(); });
}

bool has_type(const Json& value, unsigned types) {
  return ((types & kInteger) && value.is_number_integer()) || ((types & kFloat) && value.is_number_float()) ||
         ((types & kFlag) && value.is_boolean()) || ((types & kText) && value.is_string()) ||
         ((types & kNothing) && value.is_null()) ||
         ((types & kIntegers) && all_of(value, &Json::is_number_integer)) ||
         ((types & kTexts) && all_of(value, &Json::is_string));
}

// A dimension that arithmetic is safe with.
std::optional<int64_t> small_integer(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_integer()) return {};
  if (found->is_number_unsigned() && found->get<uint64_t>() > (uint64_t{1} << 40)) return {};
  return found->get<int64_t>();
}

bool is_null(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null();
}

void set_default(Json& object, const char* key, const Json& value) {
  if (!object.contains(key)) object[key] = value;
}

// Builds the object member by member. Each step returns why the class refuses the file, or nothing.
class Reader {
 public:
  Reader(const ConfigClass& config_class, const Json& file) : class_(config_class), file_(file) {}

  std::string read() {
    for (std::string (Reader::*step)() : {&Reader::read_fields, &Reader::derive, &Reader::read_rope,
                                          &Reader::read_others, &Reader::check_layers})
      if (std::string refusal = (this->*step)(); !refusal.empty()) return refusal;
    // By now "layer_types" counts for the classes that do not declare it, too.
    const bool has_types = class_.has_layer_types || !is_null(values_, "layer_types");
    for (Json* settings : rope_settings(values_["rope_parameters"], has_types)) {
      if (settings->is_null()) continue;
      if (!settings->is_object()) return "the rope settings of a kind of layer are no object";
      set_default(*settings, "rope_type", settings->value("type", Json("default")));
      if (std::string refusal = check_rope(*settings); !refusal.empty()) return refusal;
    }
    return {};
  }
  Json take() { return std::move(values_); }

 private:
  bool declares(std::string_view key) const {
    const auto same = [&](const ConfigField& field) { return field.key == key; };
    return std::ranges::any_of(class_.fields, same) || std::ranges::any_of(kShared, same);
  }

  std::string kept_name(std::string_view key) const {
    return class_.renames_experts && key == "num_experts" ? "num_local_experts" : std::string(key);
  }

  std::string read_fields() {
    for (const std::span<const ConfigField> fields : {class_.fields, std::span<const ConfigField>(kShared)})
      for (const ConfigField& field : fields) {
        const auto found = file_.find(field.key);
        if (found != file_.end() && !has_type(*found, field.types))
          return fmt::format("\"{}\" is of the wrong type", field.key);
        if (found != file_.end())
          values_[kept_name(field.key)] = *found;
        else if (!field.fallback.empty())
          values_[kept_name(field.key)] = Json::parse(field.fallback);
      }
    return {};
  }

  std::string derive() {
    const auto hidden = small_integer(values_, "hidden_size"),
               heads = small_integer(values_, "num_attention_heads");
    if (!hidden || !heads || *hidden < 1 || *heads < 1)
      return "hidden_size or num_attention_heads is no size";
    if (class_.derives_head_dim && is_null(values_, "head_dim")) values_["head_dim"] = *hidden / *heads;
    if (class_.null_kv_is_heads && values_["num_key_value_heads"].is_null())
      values_["num_key_value_heads"] = *heads;
    if (class_.divides_evenly && *hidden % *heads != 0)
      return "hidden_size is no multiple of num_attention_heads";
    if (class_.has_layer_types && values_.contains("use_sliding_window") &&
        !values_["use_sliding_window"].get<bool>())
      values_["sliding_window"] = nullptr;
    return {};
  }

  // Settings of all layers, or those of each kind of layer.
  std::vector<Json*> rope_settings(Json& rope, bool has_layer_types) const {
    std::vector<Json*> out;
    if (has_layer_types)
      for (const std::string_view kind : {"full_attention", "sliding_attention"})
        if (rope.contains(kind) && uses_layer_type(kind)) out.push_back(&rope[kind]);
    return out.empty() ? std::vector<Json*>{&rope} : out;
  }

  bool uses_layer_type(std::string_view kind) const {
    const auto given = file_.find("layer_types");
    if (given != file_.end() && given->is_array())
      return std::ranges::any_of(*given, [&](const Json& type) { return type == kind; });
    const bool slides = !is_null(values_, "sliding_window");
    if (class_.model_type == kMinistralConfig.model_type) return (kind == "sliding_attention") == slides;
    return kind == "full_attention" || slides;
  }

  std::string read_rope() {
    const Json scaling = file_.value("rope_scaling", Json());
    Json rope = file_.value("rope_parameters", Json());
    if (rope.is_null()) rope = Json::object();
    if (!rope.is_object() || (!is_false(scaling) && !scaling.is_object()))
      return "the rope settings are no object";
    if (!is_false(scaling)) rope = scaling;
    const Json theta = file_.value("rope_theta", Json(class_.rope_theta));
    const Json part = file_.value("partial_rotary_factor", Json());
    for (Json* settings : rope_settings(rope, class_.has_layer_types)) {
      if (settings->is_null()) continue;
      if (!settings->is_object()) return "the rope settings of a kind of layer are no object";
      set_default(*settings, "rope_theta", theta);
      if (!part.is_null()) set_default(*settings, "partial_rotary_factor", part);
      set_default(*settings, "rope_type", settings->value("type", Json("default")));
      const Json& type = (*settings)["rope_type"];
      if (type == "llama3" || type == "yarn" || type == "longrope")
        set_default(*settings, "original_max_position_embeddings", values_["max_position_embeddings"]);
    }
    values_["rope_parameters"] = std::move(rope);
    return {};
  }

  std::string read_others() {
    for (const auto& [key, value] : file_.items()) {
      if (declares(key) || std::ranges::count(kGenerationKeys, key) || key == "rope_scaling" ||
          key == "rope_parameters" || key == "rope_theta" || key == "partial_rotary_factor")
        continue;
      const bool is_type = key == "dtype" || (key == "torch_dtype" && is_null(file_, "dtype"));
      if (is_type && value.is_string() &&
          !std::ranges::count(kTorchTypes, value.get_ref<const std::string&>()))
        return fmt::format("\"{}\" is no type of PyTorch", key);
      values_[kept_name(key)] = value;
    }
    return {};
  }

  std::string check_layers() {
    const auto types = values_.find("layer_types");
    if (types == values_.end() || types->is_null()) return {};
    const auto known = [](const Json& type) {
      return type.is_string() && std::ranges::count(kLayerTypes, type.get_ref<const std::string&>());
    };
    if (!types->is_array() || !std::ranges::all_of(*types, known)) return "\"layer_types\" has unknown types";
    if (small_integer(values_, "num_hidden_layers") != std::ssize(*types))
      return "\"layer_types\" is not as long as there are layers";
    return {};
  }

  std::string check_rope(const Json& rope) const {
    const Json& type = rope["rope_type"];
    for (const RopeKind& kind : rope_kinds()) {
      if (type != kind.name) continue;
      for (const std::string_view key : kind.needs)
        if (!rope.contains(key))
          return fmt::format("rope settings of type \"{}\" without \"{}\"", kind.name, key);
    }
    const auto number = [&](const char* key) { return rope[key].is_number() || rope[key].is_boolean(); };
    if (type == "yarn" && (!number("original_max_position_embeddings") ||
                           rope["original_max_position_embeddings"].get<double>() == 0))
      return "\"original_max_position_embeddings\" of the rope settings is no length";
    if (type == "llama3")
      for (const char* key : {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"})
        if (!number(key)) return fmt::format("\"{}\" of the rope settings is no number", key);
    if (type == "longrope") {
      if (!rope["short_factor"].is_array() || !rope["long_factor"].is_array())
        return "the factors of the rope settings are no lists";
      if (values_.contains("head_dim") && values_["head_dim"].is_null()) return "head_dim is null";
    }
    return check_head_dim(rope);
  }

  // All of a head can only be rotated in pairs. (Tiny models are let through.)
  std::string check_head_dim(const Json& rope) const {
    const auto head_dim = small_integer(values_, "head_dim");
    const auto part = rope.find("partial_rotary_factor");
    const bool whole = part == rope.end() || (part->is_number() && part->get<double>() == 1);
    return head_dim && *head_dim > 4 && *head_dim % 2 != 0 && whole ? "head_dim is odd" : "";
  }

  const ConfigClass& class_;
  const Json& file_;
  Json values_ = Json::object();
};

}  // namespace

const ConfigClass kLlamaConfig = {.model_type = "llama",
                                  .rope_theta = 10000.0,
                                  .fields = kLlamaFields,
                                  .derives_head_dim = true,
                                  .divides_evenly = true,
                                  .null_kv_is_heads = true};
const ConfigClass kMistralConfig = {
    .model_type = "mistral", .rope_theta = 10000.0, .fields = kMistralFields, .derives_head_dim = true};
const ConfigClass kMixtralConfig = {
    .model_type = "mixtral", .rope_theta = 1e6, .fields = kMixtralFields, .renames_experts = true};
const ConfigClass kQwen2Config = {.model_type = "qwen2",
                                  .rope_theta = 10000.0,
                                  .fields = kQwen2Fields,
                                  .null_kv_is_heads = true,
                                  .has_layer_types = true};
const ConfigClass kQwen3Config = {.model_type = "qwen3",
                                  .rope_theta = 10000.0,
                                  .fields = kQwen3Fields,
                                  .null_kv_is_heads = true,
                                  .has_layer_types = true};
const ConfigClass kQwen2MoeConfig = {
    .model_type = "qwen2_moe", .rope_theta = 10000.0, .fields = kQwen2MoeFields, .has_layer_types = true};
const ConfigClass kQwen3MoeConfig = {
    .model_type = "qwen3_moe", .rope_theta = 10000.0, .fields = kQwen3MoeFields, .renames_experts = true};

bool is_false(const Json& value) {
  return value.is_null() || value.empty() || value == false || value == 0 || value == "";
}

ReadConfig read_as_class(const ConfigClass& config_class, const Json& file) {
  const bool is_ministral = config_class.model_type == "mistral" && file.contains("layer_types");
  Reader reader(is_ministral ? kMinistralConfig : config_class, file);
  std::string refusal = reader.read();
  if (!refusal.empty()) return {file, std::move(refusal)};
  return {reader.take(), {}};
}

}  // namespace moerge
