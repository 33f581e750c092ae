#include "moerge/hub/evaluation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "moerge/base/error.h"

namespace moerge {
namespace {

// The first that a task has is shown.
constexpr std::array<std::string_view, 11> kMetrics = {
    "acc_norm", "acc",        "exact_match",     "mc2",       "multiple_choice_grade", "pass@1", "f1",
    "eqbench",  "eqbench_v2", "word_perplexity", "perplexity"};
constexpr std::array<std::string_view, 3> kFilters = {"none", "strict-match", "flexible-extract"};

// What the Hub calls the data of well-known tasks, in cards (https://huggingface.co/docs/hub/model-cards),
// and TruthfulQA's metric, which lm-eval calls "acc".
struct KnownTask {
  std::string_view task, name, dataset, config, split, metric = {};
};
constexpr std::array kKnown = {
    KnownTask{"arc_challenge", "AI2 Reasoning Challenge", "allenai/ai2_arc", "ARC-Challenge", "test"},
    KnownTask{"arc_easy", "AI2 Reasoning Challenge, easy set", "allenai/ai2_arc", "ARC-Easy", "test"},
    KnownTask{"hellaswag", "HellaSwag", "Rowan/hellaswag", "", "validation"},
    KnownTask{"mmlu", "MMLU", "cais/mmlu", "all", "test"},
    KnownTask{"truthfulqa_mc1", "TruthfulQA", "truthfulqa/truthful_qa", "multiple_choice", "validation",
              "mc1"},
    KnownTask{"truthfulqa_mc2", "TruthfulQA", "truthfulqa/truthful_qa", "multiple_choice", "validation",
              "mc2"},
    KnownTask{"winogrande", "Winogrande", "allenai/winogrande", "winogrande_xl", "validation"},
    KnownTask{"gsm8k", "GSM8K", "openai/gsm8k", "main", "test"},
    KnownTask{"boolq", "BoolQ", "aps/super_glue", "boolq", "validation"},
    KnownTask{"openbookqa", "OpenBookQA", "allenai/openbookqa", "main", "test"},
    KnownTask{"piqa", "PIQA", "baber/piqa", "", "validation"},
    KnownTask{"eq_bench", "EQ-Bench", "pbevan11/EQ-Bench", "", "validation"},
};

const KnownTask* known_task(std::string_view task) {
  const auto found = std::ranges::find(kKnown, task, &KnownTask::task);
  return found == kKnown.end() ? nullptr : &*found;
}

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
  std::ranges::stable_sort(out, {}, [](const Metric& m) { return metric_rank(m.name, m.filter); });
  return out;
}

std::optional<double> error_of(const Json& task, const Metric& metric) {
  for (const std::string& key :
       {fmt::format("{}_stderr,{}", metric.name, metric.filter), metric.name + "_stderr"})
    if (const Json* value = member(task, key); value && value->is_number()) return value->get<double>();
  return {};
}

int64_t count_of(const Json* object, const std::string& key) {
  const Json* value = object ? member(*object, key) : nullptr;
  return value && value->is_number_integer() ? std::max<int64_t>(0, value->get<int64_t>()) : 0;
}

// What the report itself says about the data is right; the table fills in the rest.
void add_known(CardScore& score, const KnownTask& known) {
  score.dataset_name = known.name;
  if (score.metric == "acc" && !known.metric.empty()) score.metric = known.metric;
  if (!score.dataset.empty()) return;
  score.dataset = known.dataset;
  score.dataset_config = known.config;
  score.split = known.split;
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

std::pair<size_t, size_t> metric_rank(std::string_view metric, std::string_view filter) {
  return {rank_in(kMetrics, metric), rank_in(kFilters, filter)};
}

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
  const Json* counts = member(report, "n-samples");
  const std::string version = text_of(member(report, "moerge"), "version");
  const std::string harness = version.empty() ? "" : fmt::format("moerge eval {}", version);
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
    if (const KnownTask* known = known_task(task)) add_known(score, *known);
    const Json* count = shots ? member(*shots, task) : nullptr;
    if (count && count->is_number_integer()) score.shots = count->get<int64_t>();
    const Json* samples = counts ? member(*counts, task) : nullptr;
    score.items = count_of(samples, "effective");
    score.all_items = count_of(samples, "original");
    score.harness = harness;
    out.push_back(std::move(score));
  }
  if (out.empty())
    fail(ErrorKind::input, "{}: \"results\" holds no number under any task (\"acc,none\": 0.5, say)", where);
  return out;
}

std::vector<CardSection> suite_sections(const Json& report) {
  constexpr size_t kMaxSuites = 20, kMaxGroups = 100;
  std::vector<CardSection> out;
  const Json* own = member(report, "moerge");
  const Json* suites = own ? member(*own, "suites") : nullptr;
  if (!suites || !suites->is_array() || suites->size() > kMaxSuites) return out;
  for (const Json& suite : *suites) {
    const Json* groups = member(suite, "groups");
    if (!groups || !groups->is_array() || groups->empty() || groups->size() > kMaxGroups) continue;
    CardTable table = {.columns = {"Group", "Score", "\u00b1"}};
    const auto add = [&](const std::string& name, const Json& entry, const std::string& key) {
      const Json* error = member(entry, "stderr");
      const Json* score = member(entry, key);
      const auto text = [](const Json* value) {
        return value && value->is_number() ? fmt::format("{:.2f}", value->get<double>()) : std::string();
      };
      table.rows.push_back({card_text(name), card_text(text(score)), card_text(text(error))});
    };
    for (const Json& group : *groups) add(text_of(&group, "name"), group, "score");
    if (groups->size() > 1) add("Average", suite, "average");
    out.push_back(
        {.heading = fmt::format("Benchmark: {}", text_of(&suite, "title")), .table = std::move(table)});
  }
  return out;
}

}  // namespace moerge
