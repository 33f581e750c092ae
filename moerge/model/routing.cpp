#include "moerge/model/routing.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moerge {

std::vector<RoutedTokens> route_tokens(std::span<const float> logits, const ModelConfig& config) {
  const auto experts = static_cast<size_t>(config.experts);
  const auto chosen = static_cast<std::ptrdiff_t>(config.experts_per_token);
  std::vector<RoutedTokens> out(experts);
  std::vector<float> shares(experts);
  std::vector<size_t> order(experts);
  for (size_t token = 0; token * experts < logits.size(); token++) {
    const std::span<const float> row = logits.subspan(token * experts, experts);
    const float largest = *std::ranges::max_element(row);
    float sum = 0;
    for (size_t i = 0; i < experts; i++) {
      shares[i] = std::exp(row[i] - largest);
      sum += shares[i];
    }
    for (float& share : shares) share /= sum;
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::partial_sort(order, order.begin() + chosen, [&](size_t a, size_t b) {
      return shares[a] != shares[b] ? shares[a] > shares[b] : a < b;
    });
    const std::span<const size_t> picks(order.begin(), order.begin() + chosen);
    float total = 0;
    for (const size_t expert : picks) total += shares[expert];
    const float scale = static_cast<float>(config.routed_scale) / (config.normalised ? total : 1.0f);
    for (const size_t expert : picks) {
      if (shares[expert] == 0) continue;
      out[expert].tokens.push_back(static_cast<int64_t>(token));
      out[expert].weights.push_back(shares[expert] * scale);
    }
  }
  return out;
}

}  // namespace moerge
