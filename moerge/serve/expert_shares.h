#pragma once
// How the experts of a mixture share an answer: sums over its tokens, the colour of each expert, and the
// tables that a person reads.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/serve/routing_tap.h"

namespace moerge {

/// Of the xterm palette of 256 colours. They stay at least 2.7 to 1 from both a white and a black background
/// and differ for people who do not tell red from green.
struct ExpertColour {
  std::string_view name;
  int code;
};

inline constexpr int64_t kExpertColours = 8;

/// Experts beyond the last colour begin again with the first; their numbers tell them apart.
const ExpertColour& expert_colour(int64_t expert);
/// `text` in an expert's colour.
std::string in_colour(int64_t expert, std::string_view text);

class ExpertShares {
 public:
  /// Of a model with so many experts, of which each token has so many in a layer. `names`: none, or one each.
  ExpertShares(int64_t experts, int64_t experts_per_token, std::vector<std::string> names = {});

  /// A token whose layers do not fit those of the tokens before is left out.
  void add(const TokenRouting& routing);
  void clear();

  int64_t experts() const { return experts_; }
  int64_t tokens() const { return tokens_; }
  int64_t layers() const { return static_cast<int64_t>(layers_.size()); }
  /// The expert with the largest weight, summed over layers and the tokens that were added; -1 without any.
  int64_t leader() const;

  /// Shares of all weight and of all first choices, summed over layers. Both sum to 1.
  double weight_share(int64_t expert) const;
  double first_share(int64_t expert) const;
  /// Tokens in which this expert had the largest weight, summed over layers: those that have its colour.
  int64_t led(int64_t expert) const { return led_[static_cast<size_t>(expert)]; }

  /// One line an expert, those with the largest share first where there are many. Ends without a line end.
  std::string table(bool colour) const;
  /// One line a layer: its experts by share of weight.
  std::string layer_lines(bool colour) const;
  /// {"tokens": 9, "weight": [...], "first_choice": [...], "led": [...], "layers": [{"weight": [...], ...}]}
  Json json() const;

 private:
  struct Sums {
    std::vector<double> weight;
    std::vector<int64_t> first;
  };
  std::vector<int64_t> by_weight(const std::vector<double>& weights) const;
  std::string label(int64_t expert, bool colour) const;

  int64_t experts_, used_;
  std::vector<std::string> names_;
  int64_t tokens_ = 0;
  std::vector<Sums> layers_;
  Sums all_;
  std::vector<int64_t> led_;
};

/// The leader of one token.
int64_t leading_expert(const TokenRouting& routing, int64_t experts);

}  // namespace moerge
