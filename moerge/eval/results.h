#pragma once
// What an evaluation found, and how it is told: tables in Markdown, a JSON file in lm-eval's shape, a page.

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/eval/metrics.h"
#include "moerge/eval/routing.h"
#include "moerge/eval/suite.h"
#include "moerge/eval/task.h"

namespace moerge {

struct TaskResult {
  Task task;
  int64_t shots = 0;
  int64_t items = 0, all_items = 0;  // asked, and in the split
  std::vector<MetricScore> scores;
  std::string data_revision = {};
  double seconds = 0;
  std::optional<std::string> error = {};  // why it has no scores
  std::optional<TaskRouting> routing = {};
};

/// A group of a suite and its score: the plain mean of its tasks' (GPT4All, say).
struct GroupResult {
  std::string name;
  std::vector<std::string> tasks = {};
  std::string metric = {};           // what is averaged; "acc_norm, acc" where the tasks differ
  std::optional<double> score = {};  // 0 to 100; none when a task of it has none
  std::optional<double> error = {};  // standard error of that mean, the tasks' being independent
  std::string missing = {};          // why there is no score
  std::string note = {};             // how it differs from what lm-eval prints for such a group
};

struct SuiteResult {
  std::string name;   // "nous"
  std::string title;  // "Nous"
  std::vector<GroupResult> groups = {};
  std::optional<double> average = {};  // plain mean of the groups'; none when one has none
  std::optional<double> error = {};
};

struct EvalReport {
  std::string model;       // as given
  std::string model_file;  // what was asked: a GGUF and its type
  std::string model_sha256 = {};
  std::string date;     // UTC, ISO 8601
  std::string version;  // of moerge; empty: another program's report
  std::vector<std::string> expert_names = {};
  std::vector<TaskResult> tasks = {};
  std::vector<SuiteResult> suites = {};
  double seconds = 0;
};

/// The score of a task that a table has place for: the first of `metrics` ("acc", "exact_match,strict-match")
/// that it has, and without them the usual one. Null when there is none, or it counts for nothing.
const MetricScore* headline_score(const TaskResult& result, std::span<const std::string> metrics = {});

/// The suite of these results; tasks that are not among them have no score.
SuiteResult summarize(const Suite& suite, std::span<const TaskResult> results);

/// Mean and standard error over all items of several tasks as lm-eval 0.4.13 has them for a group: each task
/// weighted by its items, variances pooled. 0 to 100, or what the metric has instead.
struct PooledScore {
  double value = 0;
  std::optional<double> error = {};
};
PooledScore pool_by_items(std::span<const MetricScore* const> scores, std::span<const int64_t> items);

/// A summary of suites, then a table for each, with standard errors, as LLM AutoEval prints them.
std::string report_markdown(const EvalReport& report);
/// The members of lm-eval's results_*.json that its readers use ("results", "configs", "versions", "n-shot",
/// "n-samples", "group_subtasks", "higher_is_better", "config", ...), and "moerge" with what it has no place
/// for.
Json report_json(const EvalReport& report);
/// The same back, also of files that lm-eval wrote. Throws input.
EvalReport parse_report(const Json& json, const std::string& where);
/// A self-contained page that compares them, up to kMaxPageReports: a bar with its standard error for each
/// task and model. No script, and a policy that lets nothing in.
std::string report_page(std::span<const EvalReport> reports);
inline constexpr size_t kMaxPageReports = 16;
/// Whether a file that begins so is such a page.
bool is_report_page(std::string_view beginning);

}  // namespace moerge
