#include "moerge/engine/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string_view>

#include "moerge/base/error.h"

namespace moerge {
namespace {

// The numbers of a rope_scaling object.
class Scaling {
 public:
  explicit Scaling(const ModelConfig& config) : config_(config) {}

  std::optional<double> number(const char* key) const {
    const Json& scaling = config_.rope.scaling;
    if (!scaling.is_object()) return {};
    const std::optional<double> value = json_number(scaling, key, config_.where);
    if (value && !std::isfinite(*value)) refuse(key, *value);
    return value;
  }
  double positive(const char* key, std::optional<double> fallback = {}) const {
    const std::optional<double> value = number(key);
    if (!value && !fallback)
      fail(ErrorKind::input, "{}: rope_scaling of type \"{}\" has no \"{}\"", config_.where,
           config_.rope.type, key);
    if (value && *value <= 0) refuse(key, *value);
    return value.value_or(fallback.value_or(0));
  }
  bool flag(const char* key, bool fallback) const {
    const Json& scaling = config_.rope.scaling;
    return scaling.is_object() ? json_bool(scaling, key, config_.where).value_or(fallback) : fallback;
  }
  /// `count` numbers, each above 0.
  std::vector<double> list(const char* key, size_t count) const {
    const Json& scaling = config_.rope.scaling;
    const auto found = scaling.find(key);
    const auto is_positive = [](const Json& value) {
      return value.is_number() && value.get<double>() > 0 && std::isfinite(value.get<double>());
    };
    if (found == scaling.end() || !found->is_array() || found->size() != count ||
        !std::ranges::all_of(*found, is_positive))
      fail(ErrorKind::input, "{}: \"{}\" in rope_scaling should be a list of {} positive numbers",
           config_.where, key, count);
    return found->get<std::vector<double>>();
  }
  // transformers prefers the member beside rope_scaling over the one in it.
  double original_length() const {
    const std::optional<double> outer =
        json_number(config_.raw, "original_max_position_embeddings", config_.where);
    if (outer && *outer > 0) return *outer;
    return positive("original_max_position_embeddings", static_cast<double>(config_.max_positions));
  }

 private:
  [[noreturn]] void refuse(const char* key, double value) const {
    fail(ErrorKind::input, "{}: \"{}\" in rope_scaling is {}", config_.where, key, value);
  }
  const ModelConfig& config_;
};

// Divides the slow frequencies by a factor, keeps the fast ones, and goes smoothly from one to the other
// between.
void stretch_llama3(const Scaling& scaling, std::vector<double>& inverse) {
  const double factor = scaling.positive("factor");
  const double low = scaling.positive("low_freq_factor"), high = scaling.positive("high_freq_factor");
  const double length = scaling.original_length();
  for (double& frequency : inverse) {
    const double wavelength = 2 * std::numbers::pi / frequency;
    if (wavelength < length / high) continue;
    const double smooth = wavelength > length / low ? 0 : (length / wavelength - low) / (high - low);
    frequency = (1 - smooth) * frequency / factor + smooth * frequency;
  }
}

// YaRN (Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023). Returns the
// factor for cos and sin.
double stretch_yarn(const Scaling& scaling, double theta, double max_positions,
                    std::vector<double>& inverse) {
  const double length = scaling.original_length(),
               factor = scaling.positive("factor", max_positions / length);
  const double half = static_cast<double>(inverse.size()), dim = 2 * half;
  // The index (of a pair) whose angle makes this many turns over the original length.
  const auto index_of = [&](double turns) {
    return dim * std::log(length / (turns * 2 * std::numbers::pi)) / (2 * std::log(theta));
  };
  // transformers: 0 means "not given" for these two.
  const auto beta = [&](const char* key, double fallback) {
    const double value = scaling.number(key).value_or(0);
    return value == 0 ? fallback : scaling.positive(key);
  };
  double low = index_of(beta("beta_fast", 32)), high = index_of(beta("beta_slow", 1));
  if (scaling.flag("truncate", true)) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inverse.size(); i++) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inverse[i] = inverse[i] / factor * ramp + inverse[i] * (1 - ramp);
  }

  const auto scale_of = [&](double weight) {
    return factor <= 1 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0;
  };
  if (const auto given = scaling.number("attention_factor")) return *given;
  const double mscale = scaling.number("mscale").value_or(0),
               all = scaling.number("mscale_all_dim").value_or(0);
  return mscale != 0 && all != 0 ? scale_of(mscale) / scale_of(all) : scale_of(1);
}

// "NTK-aware" scaling: a larger base, the larger the longer the sequence. Returns it.
double dynamic_base(const Scaling& scaling, const ModelConfig& config, double length) {
  const double factor = scaling.positive("factor"), dim = static_cast<double>(config.head_dim);
  const double growth = length / static_cast<double>(config.max_positions);
  if (growth <= 1) return config.rope.theta;
  return config.rope.theta * std::pow(factor * growth - (factor - 1), dim / (dim - 2));
}

// LongRoPE (Ding et al., "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens", 2024): a divisor
// for each frequency, one list for sequences up to the original length, one for longer ones. Returns the
// factor for cos and sin.
double stretch_long(const Scaling& scaling, double length, double max_positions,
                    std::vector<double>& inverse) {
  const std::vector<double> brief = scaling.list("short_factor", inverse.size()),
                            extended = scaling.list("long_factor", inverse.size());
  const double original = scaling.original_length();
  for (size_t i = 0; i < inverse.size(); i++) inverse[i] /= length > original ? extended[i] : brief[i];
  if (const auto given = scaling.number("attention_factor")) return *given;
  const double factor = scaling.positive("factor", max_positions / original);
  return factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(original));
}

}  // namespace

RopeFrequencies rope_frequencies(const ModelConfig& config, int64_t length) {
  const std::string_view type = config.rope.type;
  const Scaling scaling(config);
  const double beside = json_number(config.raw, "partial_rotary_factor", config.where).value_or(1);
  if (scaling.number("partial_rotary_factor").value_or(beside) != 1)
    fail(ErrorKind::unsupported, "{}: partial_rotary_factor other than 1 is not supported", config.where);

  const auto tokens = static_cast<double>(length), max_positions = static_cast<double>(config.max_positions),
             dim = static_cast<double>(config.head_dim);
  const double theta = type == "dynamic" ? dynamic_base(scaling, config, tokens) : config.rope.theta;
  std::vector<double> inverse(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < inverse.size(); i++) inverse[i] = std::pow(theta, -2 * static_cast<double>(i) / dim);

  RopeFrequencies out;
  if (type == "linear") {
    const double factor = scaling.positive("factor");
    for (double& frequency : inverse) frequency /= factor;
  } else if (type == "llama3") {
    stretch_llama3(scaling, inverse);
  } else if (type == "yarn") {
    out.attention_factor = static_cast<float>(stretch_yarn(scaling, theta, max_positions, inverse));
  } else if (type == "longrope") {
    out.attention_factor = static_cast<float>(stretch_long(scaling, tokens, max_positions, inverse));
  } else if (type != "default" && type != "dynamic") {
    fail(ErrorKind::unsupported,
         "{}: the forward pass does not know rope type \"{}\" (it knows default, linear, dynamic, llama3, "
         "yarn and longrope); gate_mode cheap_embed or random need no forward pass",
         config.where, type);
  }
  if (!std::isfinite(out.attention_factor))
    fail(ErrorKind::input, "{}: its rope settings give a factor of {} for attention", config.where,
         out.attention_factor);

  for (const double frequency : inverse) {
    const auto value = static_cast<float>(frequency);
    if (!(value > 0) || !std::isfinite(1 / value))
      fail(ErrorKind::input, "{}: its rope settings give a rotation of {} radians per token", config.where,
           frequency);
    out.inverse.push_back(value);
  }
  return out;
}

}  // namespace moerge
