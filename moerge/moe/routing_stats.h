#pragma once
// Where a mixture's routers send tokens, counted.

#include <cstdint>
#include <span>
#include <vector>

#include "moerge/model/config.h"

namespace moerge {

/// Below this many tokens, shares say little.
inline constexpr int64_t kEnoughTokens = 200;

/// Counts over the tokens of one layer. Probabilities are the softmax over all experts, before the chosen
/// ones are taken out and scaled.
struct LayerRouting {
  explicit LayerRouting(int64_t experts)
      : chosen(static_cast<size_t>(experts)),
        first(chosen.size()),
        probability(chosen.size()),
        confusion(chosen.size() * chosen.size()) {}

  int64_t tokens = 0;
  std::vector<int64_t> chosen;      // [experts]: tokens that an expert is among the chosen ones of
  std::vector<int64_t> first;       // [experts]: tokens that it is the first choice of
  std::vector<double> probability;  // [experts]: sum over tokens
  double entropy = 0;               // sum over tokens of -sum p ln p, nats
  std::vector<int64_t> confusion;   // [meant, first choice], of tokens for which an expert is meant
};

struct RoutingStats {
  int64_t experts = 0;
  std::vector<LayerRouting> layers;

  RoutingStats(int64_t layer_count, int64_t expert_count)
      : experts(expert_count), layers(static_cast<size_t>(layer_count), LayerRouting(expert_count)) {}

  /// `logits`: [tokens, experts]. `meant`: the expert that is meant for each token, -1 for none.
  void add(int64_t layer, std::span<const float> logits, std::span<const int64_t> meant,
           int64_t experts_per_token);

  /// Of all first choices (mean over layers) for tokens with a meant expert, the share that is this expert;
  /// each expert's texts weigh the same. -1 without such tokens.
  double right_share() const;
  /// The same for the texts of one expert, -1 where there are none.
  double right_share(int64_t expert) const;
  /// Mean over layers of an expert's share of the chosen places; all of them sum to 1.
  double load(int64_t expert) const;
};

}  // namespace moerge
