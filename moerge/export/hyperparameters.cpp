#include "moerge/export/hyperparameters.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "moerge/base/error.h"
#include "moerge/export/converter_config.h"

namespace moerge {
namespace {

constexpr int64_t kMaxRotaryDim = 1 << 20;

// Writes "{arch}.KEY".
class Keys {
 public:
  Keys(GgufMetadata& metadata, std::string_view arch) : metadata_(metadata), arch_(arch) {}

  void set(std::string_view key, GgufValue value) {
    metadata_.set(fmt::format("{}.{}", arch_, key), std::move(value));
  }
  void count(std::string_view key, std::optional<int64_t> value) {
    if (value) set(key, static_cast<uint32_t>(*value));
  }
  void number(std::string_view key, std::optional<double> value) {
    if (value) set(key, static_cast<float>(*value));
  }

 private:
  GgufMetadata& metadata_;
  std::string_view arch_;
};

void add_sizes(Keys& out, const ConverterConfig& config) {
  out.count("block_count", config.needed_count({"num_hidden_layers"}));
  out.count("context_length", config.count({"max_position_embeddings", "n_ctx", "n_positions", "max_length",
                                            "max_sequence_length", "model_max_length"}));
  out.count("embedding_length", config.count({"hidden_size", "n_embd", "dim"}));
  out.count("feed_forward_length", config.count({"prefix_dense_intermediate_size", "dense_intermediate_size",
                                                 "intermediate_size", "n_inner", "hidden_dim"}));
  out.count("attention.head_count", config.count({"num_attention_heads", "n_head", "n_heads"}));
  out.count("attention.head_count_kv", config.count({"num_key_value_heads", "n_kv_heads"}));
  if (config.is("is_causal", false)) out.set("attention.causal", false);
  out.number("attention.layer_norm_rms_epsilon", config.number({"rms_norm_eps", "norm_eps"}));
  out.number("attention.layer_norm_epsilon",
             config.number({"layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"}));
  out.count("attention.key_length", config.count({"head_dim"}));
  out.count("attention.value_length", config.count({"head_dim"}));
}

void add_rope(Keys& out, const ConverterConfig& config) {
  const std::string type = config.rope_type();
  const bool has_factor = config.rope_positive("factor").has_value();
  if ((type == "linear" || type == "yarn") && has_factor) {
    out.set("rope.scaling.type", type);
    out.number("rope.scaling.factor", config.rope_positive("factor"));
  } else if (type == "su" || type == "longrope") {
    out.set("rope.scaling.type", "longrope");
  }
  if (type == "yarn" && has_factor) {
    const auto length = config.rope_count("original_max_position_embeddings");
    if (!length)
      fail(ErrorKind::input,
           "{}: rope settings of type \"yarn\" without \"original_max_position_embeddings\"", config.where());
    out.count("rope.scaling.original_context_length", length);
    out.number("rope.scaling.yarn_ext_factor", config.rope_number("extrapolation_factor"));
    const bool spelt_out = config.rope().contains("attention_factor");
    out.number("rope.scaling.yarn_attn_factor",
               config.rope_number(spelt_out ? "attention_factor" : "attn_factor"));
    out.number("rope.scaling.yarn_beta_fast", config.rope_number("beta_fast"));
    out.number("rope.scaling.yarn_beta_slow", config.rope_number("beta_slow"));
  }
  out.number("rope.freq_base", config.rope_positive("rope_theta"));
  out.number("rope.freq_base_swa", config.sliding_rope_theta());
}

// llama.cpp's numbers for how a router's outputs become weights.
uint32_t gating_function(const Json& name, const std::string& where) {
  if (name == "softmax") return 1;
  if (name == "sigmoid") return 2;
  if (name == "sqrtsoftplus") return 4;
  fail(ErrorKind::unsupported,
       "{}: the router function {} is none that llama.cpp has (softmax, sigmoid, sqrtsoftplus)", where,
       name.is_string() ? name.dump() : name.type_name());
}

void add_experts(Keys& out, const ConverterConfig& config) {
  out.count("expert_count", config.count({"num_local_experts", "num_experts", "n_routed_experts"}, 0));
  out.count("expert_used_count",
            config.count({"num_experts_per_tok", "num_experts_per_token", "top_k_experts"}, 0));
  out.count("expert_group_count", config.count({"n_group"}, 0));
  out.count("expert_group_used_count", config.count({"topk_group"}, 0));
  if (const Json* name = config.find({"score_function", "scoring_func", "score_func", "moe_router_activation",
                                      "moe_router_activation_func", "expert_selection_fn"}))
    out.set("expert_gating_func", gating_function(*name, config.where()));
}

void add_llama(Keys& out, const ConverterConfig& config) {
  out.count("vocab_size", config.needed_count({"vocab_size"}));
  out.count("rope.dimension_count", config.head_dim());
}

void add_qwen_moe(Keys& out, const ConverterConfig& config) {
  out.count("expert_feed_forward_length", config.count({"moe_intermediate_size"}));
  out.count("expert_shared_feed_forward_length", config.count({"shared_expert_intermediate_size"}));
}

void add_deepseek(Keys& out, const ConverterConfig& config) {
  out.count("rope.dimension_count", config.head_dim());
  out.set("rope.scaling.type", "none");
  out.count("leading_dense_block_count", config.needed_count({"first_k_dense_replace"}, 0));
  out.count("vocab_size", config.needed_count({"vocab_size"}));
  out.count("expert_feed_forward_length", config.needed_count({"moe_intermediate_size"}));
  out.number("expert_weights_scale", 1.0);
  out.count("expert_count", config.needed_count({"n_routed_experts"}));
  out.count("expert_shared_count", config.needed_count({"n_shared_experts"}));
}

// A DeepSeek-MoE with normalised weights: Granite's multipliers are 1.
void add_granite_moe(Keys& out, const ConverterConfig& config) {
  out.count("vocab_size", config.needed_count({"vocab_size"}));
  out.count("rope.dimension_count", config.head_dim());
  const int64_t ffn = config.needed_count({"moe_intermediate_size"});
  out.count("feed_forward_length", ffn);
  if (const int64_t shared = config.count({"n_shared_experts"}, 0).value_or(0); shared > 0)
    out.count("expert_shared_feed_forward_length", shared * ffn);
  out.number("logit_scale", 1.0);
}

constexpr struct {
  std::string_view arch;
  void (*add)(Keys&, const ConverterConfig&);
} kFurther[] = {
    {"llama", add_llama},       {"qwen2moe", add_qwen_moe},      {"qwen3moe", add_qwen_moe},
    {"deepseek", add_deepseek}, {"granitemoe", add_granite_moe},
};

// Llama 3's settings, as single-precision numbers where PyTorch has them so.
struct Stretch {
  float factor, low, span, length, shortest, longest;
};

Stretch read_stretch(const ConverterConfig& config) {
  const auto get = [&](const char* key, double fallback) {
    return config.rope_positive(key).value_or(fallback);
  };
  const double factor = get("factor", 8), low = get("low_freq_factor", 1), high = get("high_freq_factor", 4),
               length = get("original_max_position_embeddings", 8192);
  return {.factor = static_cast<float>(factor),
          .low = static_cast<float>(low),
          .span = static_cast<float>(high - low),
          .length = static_cast<float>(length),
          .shortest = static_cast<float>(length / high),
          .longest = static_cast<float>(length / low)};
}

// Fast rotations stay, slow ones are slowed by the factor, those between go smoothly from one to the other.
float factor_of(float frequency, const Stretch& stretch) {
  const float wavelength = 1 / frequency * static_cast<float>(2 * std::numbers::pi);
  if (wavelength < stretch.shortest) return 1;
  if (wavelength > stretch.longest) return stretch.factor;
  const float smooth = (1 / wavelength * stretch.length - stretch.low) / stretch.span;
  return 1 / ((1 - smooth) / stretch.factor + smooth);
}

}  // namespace

void add_hyperparameters(GgufMetadata& metadata, const ExportFamily& family, const Json& config,
                         const std::string& where) {
  const ConverterConfig source(family, config, where);
  Keys out(metadata, family.arch);
  add_sizes(out, source);
  add_rope(out, source);
  add_experts(out, source);
  for (const auto& further : kFurther)
    if (further.arch == family.arch) further.add(out, source);
}

std::vector<float> rope_frequency_factors(const ExportFamily& family, const Json& config,
                                          const std::string& where) {
  const ConverterConfig source(family, config, where);
  std::string type = source.rope_type();
  for (char& c : type)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  if (family.arch != "llama" || type != "llama3") return {};

  const int64_t dim = source.head_dim();
  if (dim > kMaxRotaryDim) fail(ErrorKind::input, "{}: heads of {} elements", where, dim);
  const std::optional<double> stated = source.rope_positive("rope_theta");
  if (!stated && source.rope().contains("rope_theta"))
    fail(ErrorKind::input, "{}: \"rope_theta\" is null", where);
  const auto theta = static_cast<float>(stated.value_or(10000.0));
  const Stretch stretch = read_stretch(source);
  std::vector<float> out;
  for (int64_t i = 0; i < dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(dim);
    const auto power =
        static_cast<float>(std::pow(static_cast<double>(theta), static_cast<double>(exponent)));
    out.push_back(factor_of(1 / power, stretch));
    if (!std::isfinite(out.back()))
      fail(ErrorKind::input, "{}: its rope settings of type \"llama3\" give no finite frequency", where);
  }
  return out;
}

}  // namespace moerge
