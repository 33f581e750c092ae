#include "moerge/hub/evaluation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "moerge/base/error.h"

namespace moerge {
namespace {

constexpr int64_t kMaxReport = 256 << 20;  // with every sample in it
// The first that a task has is shown.
constexpr std::array<std::string_view, 9> kMetrics = {
    "acc_norm", "acc", "exact_match", "mc2", "pass@1", "f1", "eqbench", "word_perplexity", "perplexity"};
constexpr std::array<std::string_view, 3> kFilters = {"none", "strict-match", "flexible-extract"};

const Json* member(const Json& object, const std::string& key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string text_of(const Json* object, const std::string& key) {
  const Json* value = object ? member(*object, key) : nullptr;
  return value && value->is_string() ? value->get<std::string>() : "";
}

// "acc_norm,none" is metric and filter; reports of 2023 have the metric alone.
struct Metric {
  std::string name, filter;
  double value;
};

template <size_t N>
size_t rank_in(const std::array<std::string_view, N>& list, std::string_view word) {
  return static_cast<size_t>(std::ranges::find(list, word) - list.begin());
}

std::vector<Metric> metrics_of(const Json& task) {
  std::vector<Metric> out;
  for (const auto& [key, value] : task.items()) {
    const size_t comma = key.find(',');
    Metric metric = {key.substr(0, comma), comma == std::string::npos ? "none" : key.substr(comma + 1), 0};
    if (!value.is_number() || metric.name.ends_with("_stderr") || metric.name == "sample_len") continue;
    metric.value = value.get<double>();
    if (std::isfinite(metric.value)) out.push_back(std::move(metric));
  }
  std::ranges::stable_sort(out, {}, [](const Metric& m) {
    return std::pair(rank_in(kMetrics, m.name), rank_in(kFilters, m.filter));
  });
  return out;
}

std::optional<double> error_of(const Json& task, const Metric& metric) {
  for (const std::string& key :
       {fmt::format("{}_stderr,{}", metric.name, metric.filter), metric.name + "_stderr"})
    if (const Json* value = member(task, key); value && value->is_number()) return value->get<double>();
  return {};
}

// Tasks whose group has a score of its own.
std::set<std::string> inside_groups(const Json& report, const Json& results) {
  std::set<std::string> inside;
  const Json* groups = member(report, "group_subtasks");
  if (!groups || !groups->is_object()) return inside;
  for (const auto& [group, tasks] : groups->items()) {
    const Json* own = member(results, group);
    if (!own || !own->is_object() || metrics_of(*own).empty() || !tasks.is_array()) continue;
    for (const Json& task : tasks)
      if (task.is_string() && task != group) inside.insert(task.get<std::string>());
  }
  return inside;
}

}  // namespace

std::vector<CardScore> parse_scores(const Json& report, const std::string& where) {
  const Json* results = member(report, "results");
  if (!results || !results->is_object())
    fail(ErrorKind::input,
         "{}: no object \"results\" in it: a report of the LM Evaluation Harness (lm_eval ... --output_path) "
         "is expected",
         where);
  const std::set<std::string> inside = inside_groups(report, *results);
  const Json* shots = member(report, "n-shot");
  const Json* configs = member(report, "configs");
  std::vector<CardScore> out;
  for (const auto& [task, values] : results->items()) {
    if (!values.is_object())
      fail(ErrorKind::input, "{}: \"results\" of \"{}\" should be an object, found {}", where, task,
           values.type_name());
    const std::vector<Metric> metrics = metrics_of(values);
    if (metrics.empty() || inside.contains(task)) continue;
    const Metric& metric = metrics.front();
    const Json* config = configs ? member(*configs, task) : nullptr;
    CardScore score = {.task = task,
                       .dataset = text_of(config, "dataset_path"),
                       .dataset_config = text_of(config, "dataset_name"),
                       .split = text_of(config, "test_split"),
                       .metric = metric.name,
                       .filter = metric.filter == "none" ? "" : metric.filter,
                       .value = metric.value,
                       .error = error_of(values, metric)};
    if (score.split.empty()) score.split = text_of(config, "validation_split");
    const Json* count = shots ? member(*shots, task) : nullptr;
    if (count && count->is_number_integer()) score.shots = count->get<int64_t>();
    out.push_back(std::move(score));
  }
  if (out.empty())
    fail(ErrorKind::input, "{}: \"results\" holds no number under any task (\"acc,none\": 0.5, say)", where);
  return out;
}

std::vector<CardScore> read_scores(const std::filesystem::path& file) {
  return parse_scores(read_json(file, kMaxReport), file.string());
}

}  // namespace moerge
