#include "moerge/model/gguf_rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

namespace moerge {
namespace {

// Float32 arithmetic of the converter, which divides small differences.
constexpr double kTolerance = 1e-5;

struct Llama3 {
  double factor, high, length;  // low_freq_factor is 1
};

std::vector<double> frequencies(size_t count, double theta) {  // turns per token
  std::vector<double> out(count);
  for (size_t i = 0; i < count; i++)
    out[i] = std::pow(theta, -static_cast<double>(i) / static_cast<double>(count)) / (2 * std::numbers::pi);
  return out;
}

// transformers' modeling_rope_utils, as a divisor of the frequency: 1 for what turns often within the
// original context, `factor` for what makes less than one turn, between them a mixture.
double divisor(const Llama3& s, double frequency) {
  const double turns = s.length * frequency;
  if (turns > s.high) return 1;
  if (turns < 1) return s.factor;
  const double smooth = (turns - 1) / (s.high - 1);
  return 1 / ((1 - smooth) / s.factor + smooth);
}

bool reproduces(const Llama3& s, std::span<const float> divisors, std::span<const double> frequency) {
  if (!(s.factor > 1) || !(s.high > 1) || !(s.length > 0)) return false;
  for (size_t i = 0; i < divisors.size(); i++)
    if (!(std::abs(divisor(s, frequency[i]) - divisors[i]) <= kTolerance * divisors[i])) return false;
  return true;
}

// What fits, by solving the mixture for its two ends; whole numbers where the solution is nearly whole.
std::vector<Llama3> solve(std::span<const float> divisors, std::span<const double> frequency, double factor) {
  std::vector<std::pair<double, double>> mixed;  // frequency, share of the original frequency
  for (size_t i = 0; i < divisors.size(); i++)
    if (divisors[i] > 1 + kTolerance && divisors[i] < factor * (1 - kTolerance))
      mixed.emplace_back(frequency[i], (1 / double{divisors[i]} - 1 / factor) / (1 - 1 / factor));
  std::vector<Llama3> found;
  if (mixed.empty()) return found;
  const auto [first, first_share] = mixed.front();
  found.push_back({factor, 4, std::round((3 * first_share + 1) / first)});
  if (mixed.size() < 2) return found;
  const auto [last, last_share] = mixed.back();
  const double slope = (first_share - last_share) / (first - last), offset = last_share - slope * last;
  const double high = 1 - 1 / offset, length = slope * (high - 1);
  found.push_back({factor, std::round(high), std::round(length)});
  found.push_back({factor, std::round(high * 100) / 100, std::round(length)});
  return found;
}

}  // namespace

std::optional<Json> llama3_scaling(std::span<const float> divisors, double theta) {
  if (divisors.empty() || !std::ranges::all_of(divisors, [](float f) { return f >= 1 && std::isfinite(f); }))
    return {};
  const double factor = *std::ranges::max_element(divisors);
  if (factor == 1) return Json(nullptr);
  const std::vector<double> frequency = frequencies(divisors.size(), theta);
  // Llama 3.1 and 3.3; Llama 3.2; the usual lengths, for heads so small that no divisor is a mixture.
  std::vector<Llama3> candidates = {{8, 4, 8192}, {32, 4, 8192}, {factor, 4, 8192}};
  for (int power = 20; power >= 5; power--) candidates.push_back({factor, 4, std::ldexp(1, power)});
  std::ranges::copy(solve(divisors, frequency, factor), std::back_inserter(candidates));
  for (const Llama3& candidate : candidates)
    if (reproduces(candidate, divisors, frequency))
      return Json{{"factor", candidate.factor},
                  {"high_freq_factor", candidate.high},
                  {"low_freq_factor", 1.0},
                  {"original_max_position_embeddings", std::llround(candidate.length)},
                  {"rope_type", "llama3"}};
  return {};
}

}  // namespace moerge
