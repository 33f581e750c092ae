#pragma once
// What all methods do that add up differences from a base: each difference is thinned out, weighed, and the
// sum (perhaps only of those that agree about the sign) goes back onto the base.

#include <memory>

#include "moerge/merge/method.h"

namespace moerge {

/// Which of a difference's values stay.
enum class Thinning {
  none,
  largest,           // the share `density`. Yadav et al., TIES, https://arxiv.org/abs/2306.01708
  random,            // each with the probability `density`. Yu et al., DARE, https://arxiv.org/abs/2311.03099
  without_outliers,  // likewise, after the share `gamma` of the largest ones was left out. Davari and
                     // Belilovsky, Model Breadcrumbs, https://arxiv.org/abs/2312.06795
  by_rank,  // random, larger ones more often: density - epsilon to density + epsilon over the ranks of a row.
            // Deep et al., DELLA, https://arxiv.org/abs/2406.11617
};

struct TaskArithmeticKind {
  Thinning thinning;
  bool consensus;  // only what has the sign of the weighted sum counts
};

/// Parameters of such methods, for their tables; the defaults of two differ.
constexpr ParameterSpec task_weight() {
  return {"weight",
          ParameterSpec::Type::number,
          ParameterSpec::Scope::model_but_base,
          {},
          "factor on the difference from the base"};
}
constexpr ParameterSpec task_density() {
  return {"density", ParameterSpec::Type::number, ParameterSpec::Scope::model_but_base, 1,
          "share of the difference's values that stay"};
}
constexpr ParameterSpec task_normalize(bool fallback) {
  return {"normalize", ParameterSpec::Type::flag, ParameterSpec::Scope::tensor, fallback ? 1.0 : 0.0,
          "divide by the sum of the weights that count"};
}
constexpr ParameterSpec task_rescale(bool fallback) {
  return {"rescale", ParameterSpec::Type::flag, ParameterSpec::Scope::tensor, fallback ? 1.0 : 0.0,
          "scale what stays so that its absolute values sum to what they did"};
}
constexpr ParameterSpec task_lambda() {
  return {"lambda", ParameterSpec::Type::number, ParameterSpec::Scope::tensor, 1,
          "factor on the merged difference"};
}
/// Without effect: it says in which type mergekit keeps its mask of signs.
constexpr ParameterSpec task_int8_mask() {
  return {"int8_mask", ParameterSpec::Type::flag, ParameterSpec::Scope::tensor, 0, "without effect here"};
}

/// MergeMethod::check of Thinning::by_rank: its probabilities lie between 0 and 1.
std::string check_rank_probabilities(const MergeJob& job);

std::unique_ptr<TensorMerge> make_task_arithmetic(const MergeJob& job, const TaskArithmeticKind& kind);

}  // namespace moerge
