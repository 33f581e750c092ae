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

}  // namespace

RopeFrequencies rope_frequencies(const ModelConfig& config) {
  const std::string_view type = config.rope.type;
  const Scaling scaling(config);
  if (scaling.number("partial_rotary_factor").value_or(1) != 1)
    fail(ErrorKind::unsupported, "{}: partial_rotary_factor other than 1 is not supported", config.where);

  const double theta = config.rope.theta, dim = static_cast<double>(config.head_dim);
  std::vector<double> inverse(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < inverse.size(); i++) inverse[i] = std::pow(theta, -2 * static_cast<double>(i) / dim);

  RopeFrequencies out;
  if (type == "linear") {
    const double factor = scaling.positive("factor");
    for (double& frequency : inverse) frequency /= factor;
  } else if (type == "dynamic") {
    out.max_length = config.max_positions;  // up to it, the frequencies of "default"
  } else if (type == "llama3") {
    stretch_llama3(scaling, inverse);
  } else if (type == "yarn") {
    const auto max_positions = static_cast<double>(config.max_positions);
    out.attention_factor = static_cast<float>(stretch_yarn(scaling, theta, max_positions, inverse));
  } else if (type != "default") {
    fail(ErrorKind::unsupported,
         "{}: the forward pass does not know rope type \"{}\" (it knows default, linear, dynamic, llama3 and "
         "yarn); "
         "gate_mode cheap_embed or random need no forward pass",
         config.where, type);
  }

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
