#pragma once
// Where the routers of a mixture sent the tokens of a benchmark.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/engine/imatrix.h"

namespace moerge {

struct TaskRouting {
  /// Whose tokens were counted: fewer than were asked when an earlier run answered some without counting.
  int64_t items = 0;
  /// By layer, rising. What several texts begin with was computed once, so it counts once; the last layer
  /// computes only the tokens whose logits are needed.
  std::vector<ExpertLoad> layers = {};

  int64_t experts() const;
};

/// How many experts can be told apart by columns and colours; of more, the most chosen ones are listed.
inline constexpr int64_t kMaxShownExperts = 16;

/// a + b, and what was counted between two moments. Layers that one of them lacks count as zero.
std::vector<ExpertLoad> sum(std::span<const ExpertLoad> a, std::span<const ExpertLoad> b);
std::vector<ExpertLoad> difference(std::span<const ExpertLoad> after, std::span<const ExpertLoad> before);

/// By expert: its share of a layer's choices in percent, the mean over the layers that chose at all.
std::vector<double> expert_shares(const TaskRouting& routing);
/// "12 (9.1), 3 (8.0), 40 (7.7)": the largest of these, with their names where there are any.
std::string most_chosen(const TaskRouting& routing, std::span<const std::string> names);
/// Experts of a layer that were never chosen in it, over all layers.
int64_t never_chosen(const TaskRouting& routing);
/// "2 prose", or "2".
std::string expert_label(int64_t expert, std::span<const std::string> names);

/// {"items": 40, "layers": [{"layer": 0, "tokens": [120, 33]}]}
Json routing_json(const TaskRouting& routing);
/// The same back; nothing for what this program did not write, or for absurd sizes.
std::optional<TaskRouting> parse_routing(const Json& json);

}  // namespace moerge
