#include "moerge/eval/results.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "moerge/hub/evaluation.h"

namespace moerge {
namespace {

const TaskResult* find_task(std::span<const TaskResult> results, const std::string& task) {
  const auto found =
      std::ranges::find_if(results, [&](const TaskResult& result) { return result.task.task == task; });
  return found == results.end() ? nullptr : &*found;
}

bool is_named(const MetricScore& score, std::string_view metric) {
  const size_t comma = metric.find(',');
  if (comma != std::string_view::npos && score.filter != metric.substr(comma + 1)) return false;
  metric = metric.substr(0, comma);
  return score.metric == metric || score.metric == reported_name(metric);
}

double percent_of(const MetricScore& score, double value) {
  return value * percent_factor(score.metric).value_or(1);
}

// Why a task has no score in a suite.
std::string why_missing(const std::string& task, const TaskResult* result) {
  if (!result) return fmt::format("{} was not asked", task);
  if (result->error) return fmt::format("{}: {}", task, *result->error);
  for (const MetricScore& score : result->scores)
    if (!score.failed.empty()) return fmt::format("{}: {}", task, score.failed);
  return fmt::format("{} has no score of that metric", task);
}

std::string number_with_error(const PooledScore& score) {
  return score.error ? fmt::format("{:.2f} ± {:.2f}", score.value, *score.error)
                     : fmt::format("{:.2f}", score.value);
}

// lm-eval's groups weigh tasks by their items, the published averages do not.
std::string difference_note(const GroupResult& group, std::span<const MetricScore* const> scores,
                            std::span<const int64_t> items) {
  const PooledScore pooled = pool_by_items(scores, items);
  if (fmt::format("{:.2f}", pooled.value) == fmt::format("{:.2f}", *group.score)) return "";
  return fmt::format(
      "The plain mean of {} tasks, as published; weighted by items, as lm-eval's groups are: {}.",
      scores.size(), number_with_error(pooled));
}

GroupResult summarize_group(const SuiteGroup& group, std::span<const TaskResult> results) {
  GroupResult out = {.name = group.name, .tasks = group.tasks};
  std::vector<const MetricScore*> scores;
  std::vector<int64_t> items;
  std::vector<std::string> metrics;
  double sum = 0, squares = 0;
  bool errors = true;
  for (const std::string& task : group.tasks) {
    const TaskResult* result = find_task(results, task);
    const MetricScore* score = result ? headline_score(*result, group.metrics) : nullptr;
    if (!score) {
      out.missing += (out.missing.empty() ? "" : "; ") + why_missing(task, result);
      continue;
    }
    scores.push_back(score);
    items.push_back(result->items);
    if (std::ranges::find(metrics, score->metric) == metrics.end()) metrics.push_back(score->metric);
    sum += percent_of(*score, score->value);
    errors = errors && score->error;
    squares += std::pow(percent_of(*score, score->error.value_or(0)), 2);
  }
  for (const std::string& metric : metrics) out.metric += (out.metric.empty() ? "" : ", ") + metric;
  if (!out.missing.empty() || scores.empty()) return out;
  const auto n = static_cast<double>(scores.size());
  out.score = sum / n;
  if (errors) out.error = std::sqrt(squares) / n;
  if (scores.size() > 1) out.note = difference_note(out, scores, items);
  return out;
}

}  // namespace

const MetricScore* headline_score(const TaskResult& result, std::span<const std::string> metrics) {
  const MetricScore* best = nullptr;
  const auto rank = [](const MetricScore& score) { return metric_rank(score.metric, score.filter); };
  const auto look = [&](auto fits) {
    for (const MetricScore& score : result.scores)
      if (score.failed.empty() && fits(score) && (!best || rank(score) < rank(*best))) best = &score;
  };
  if (metrics.empty()) look([](const MetricScore&) { return true; });
  for (const std::string& metric : metrics) {
    look([&](const MetricScore& score) { return is_named(score, metric); });
    if (best) break;
  }
  return best;
}

SuiteResult summarize(const Suite& suite, std::span<const TaskResult> results) {
  SuiteResult out = {.name = suite.suite, .title = suite.title.empty() ? suite.suite : suite.title};
  double sum = 0, squares = 0;
  bool scores = !suite.groups.empty(), errors = scores;
  for (const SuiteGroup& group : suite.groups) {
    GroupResult result = summarize_group(group, results);
    scores = scores && result.score;
    errors = errors && result.error;
    sum += result.score.value_or(0);
    squares += std::pow(result.error.value_or(0), 2);
    out.groups.push_back(std::move(result));
  }
  const auto n = static_cast<double>(suite.groups.size());
  if (scores) out.average = sum / n;
  if (errors) out.error = std::sqrt(squares) / n;
  return out;
}

// https://en.wikipedia.org/wiki/Pooled_variance
PooledScore pool_by_items(std::span<const MetricScore* const> scores, std::span<const int64_t> items) {
  double sum = 0, variance = 0, all = 0;
  bool errors = true;
  for (size_t i = 0; i < scores.size(); i++) {
    const auto n = static_cast<double>(items[i]);
    const double error = percent_of(*scores[i], scores[i]->error.value_or(0));
    sum += n * percent_of(*scores[i], scores[i]->value);
    variance += (n - 1) * n * error * error;
    all += n;
    errors = errors && scores[i]->error;
  }
  const double freedom = all - static_cast<double>(scores.size());
  PooledScore out = {.value = all > 0 ? sum / all : 0};
  if (errors && freedom > 0) out.error = std::sqrt(variance / freedom / all);
  return out;
}

}  // namespace moerge
