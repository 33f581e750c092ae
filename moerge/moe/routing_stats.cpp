#include "moerge/moe/routing_stats.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moerge {

void RoutingStats::add(int64_t layer, std::span<const float> logits, std::span<const int64_t> meant,
                       int64_t experts_per_token) {
  LayerRouting& counts = layers[static_cast<size_t>(layer)];
  const auto width = static_cast<size_t>(experts);
  std::vector<double> shares(width);
  std::vector<size_t> order(width);
  for (size_t token = 0; token < meant.size(); token++) {
    const std::span<const float> row = logits.subspan(token * width, width);
    const double largest = std::ranges::max(row);
    double sum = 0, entropy = 0;
    for (size_t e = 0; e < width; e++) sum += shares[e] = std::exp(row[e] - largest);
    for (size_t e = 0; e < width; e++) {
      const double p = shares[e] / sum;
      counts.probability[e] += p;
      if (p > 0) entropy -= p * std::log(p);
    }
    counts.entropy += entropy;
    // The order in which the forward pass prefers them (model/routing.h).
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, std::greater(), [&](size_t e) { return row[e]; });
    for (size_t i = 0; i < static_cast<size_t>(experts_per_token); i++) counts.chosen[order[i]]++;
    counts.first[order[0]]++;
    if (meant[token] >= 0) counts.confusion[static_cast<size_t>(meant[token]) * width + order[0]]++;
    counts.tokens++;
  }
}

double RoutingStats::right_share(int64_t expert) const {
  const auto e = static_cast<size_t>(expert), width = static_cast<size_t>(experts);
  double right = 0, all = 0;
  for (const LayerRouting& layer : layers) {
    const auto row = std::span(layer.confusion).subspan(e * width, width);
    right += static_cast<double>(row[e]);
    all += static_cast<double>(std::accumulate(row.begin(), row.end(), int64_t{0}));
  }
  return all == 0 ? -1 : right / all;
}

double RoutingStats::right_share() const {
  double sum = 0;
  int64_t count = 0;
  for (int64_t e = 0; e < experts; e++)
    if (const double share = right_share(e); share >= 0) sum += share, count++;
  return count == 0 ? -1 : sum / static_cast<double>(count);
}

double RoutingStats::load(int64_t expert) const {
  double own = 0, all = 0;
  for (const LayerRouting& layer : layers) {
    own += static_cast<double>(layer.chosen[static_cast<size_t>(expert)]);
    all += static_cast<double>(std::accumulate(layer.chosen.begin(), layer.chosen.end(), int64_t{0}));
  }
  return all == 0 ? 0 : own / all;
}

}  // namespace moerge
