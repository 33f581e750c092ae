#pragma once
// How answers become scores, as lm-evaluation-harness 0.4.13 computes them.

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/eval/items.h"
#include "moerge/eval/language_model.h"
#include "moerge/eval/task.h"

namespace moerge {

/// What a model said to one item.
struct ItemAnswer {
  std::vector<Loglikelihood> choices = {};  // multiple_choice
  std::string text = {};                    // generate_until
};

/// A value of an item by metric and filter ("acc,none"), as results files name them.
using ItemScores = std::map<std::string, double>;

/// Of a task: the mean over its items and the standard error of the mean (sample standard deviation divided
/// by the root of the number; none of fewer than two items).
struct MetricScore {
  std::string metric, filter;  // "acc_norm", "none"
  double value = 0;
  std::optional<double> error = {};
  bool higher_is_better = true;
  std::string failed = {};  // why the value counts for nothing
};

/// The metrics that a task of this kind may list, for help and for the check of task files:
///   multiple_choice  acc        the likeliest choice is a right one; the first of several that are
///                    mc1        the same, under TruthfulQA's name for it
///                    acc_norm   likelihoods by the choice's length in characters, acc_bytes in bytes of
///                    UTF-8 exact_match            a right choice is what greedy decoding would write mc2
///                    probability of the right choices, of that of all multiple_choice_grade  BIG-bench: what
///                    the item's "target_scores" give the likeliest
///   generate_until   exact_match        what a filter finds in the answer is the target
///                    eqbench            EQ-Bench in lm-eval's form: an answer that is not readable has 0
///                    percent_parseable  of such answers
///                    eqbench_v2, eqbench_v1  EQ-Bench in its own form: the mean of those that are readable;
///                                            under 83.33 % of them the run has failed
/// lm-eval reports mc1 and mc2 as "acc", and so does this.
std::span<const std::string_view> metric_names(OutputType type);
/// What a score is called in reports: "acc" for "mc2".
std::string_view reported_name(std::string_view metric);
/// A reported value times this is 0 to 100 (0 to 1, or so already); empty for what is no share, perplexity
/// say.
std::optional<double> percent_factor(std::string_view metric);

/// Throws input naming the item when its data lacks what a metric needs.
ItemScores score_item(const Task& task, const EvalItem& item, const ItemAnswer& answer);
/// Of all items' scores, in the order of the task's metrics and filters.
std::vector<MetricScore> aggregate(const Task& task, std::span<const ItemScores> scores);

/// Of a generated answer, what a filter finds; "[invalid]" when nothing matches.
std::string filtered_answer(const AnswerFilter& filter, const std::string& text);

}  // namespace moerge
