#pragma once
// Scores of a model as EleutherAI's lm-evaluation-harness reports them (--output_path), and `moerge eval`: a
// JSON object with "results" by task, each with members "METRIC,FILTER".

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/hub/card.h"

namespace moerge {

/// One score a task, the usual metric of those it has: acc_norm before acc, exact_match strictly read before
/// flexibly. Of a group that has a score itself (mmlu, say), the group's alone. Throws input when it is no
/// such report.
std::vector<CardScore> parse_scores(const Json& report, const std::string& where);
/// What a command may read of such a file: with every sample in it.
inline constexpr int64_t kMaxScoresFile = 256 << 20;

/// What `moerge eval` found for suites of tasks, as a table a suite: the scores of its groups and their
/// average. Nothing of another program's report.
std::vector<CardSection> suite_sections(const Json& report);

/// Of the scores of a task the one with the lowest rank is the usual one.
std::pair<size_t, size_t> metric_rank(std::string_view metric, std::string_view filter);

}  // namespace moerge
