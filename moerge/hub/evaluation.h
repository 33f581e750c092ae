#pragma once
// Scores of a model as EleutherAI's lm-evaluation-harness reports them (--output_path): a JSON object with
// "results" by task, each with members "METRIC,FILTER".

#include <filesystem>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/hub/card.h"

namespace moerge {

/// One score a task, the usual metric of those it has: acc_norm before acc, exact_match strictly read before
/// flexibly. Of a group that has a score itself (mmlu, say), the group's alone. Throws input when it is no
/// such report.
std::vector<CardScore> parse_scores(const Json& report, const std::string& where);
std::vector<CardScore> read_scores(const std::filesystem::path& file);

}  // namespace moerge
