// The report as lm-eval 0.4.13 writes its results_*.json.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>

#include "moerge/eval/results.h"

namespace moerge {
namespace {

// What lm-eval calls a group: a name like its own.
std::string group_key(const std::string& name) {
  std::string out;
  for (const char c : name) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    out += letter ? c : c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : '_';
  }
  return out;
}

std::string score_key(const MetricScore& score) { return fmt::format("{},{}", score.metric, score.filter); }

Json error_or_none(const std::optional<double>& error) { return error ? Json(*error) : Json("N/A"); }

void add_score(Json& members, const MetricScore& score) {
  members[score_key(score)] = score.value;
  members[fmt::format("{}_stderr,{}", score.metric, score.filter)] = error_or_none(score.error);
}

std::string type_name(OutputType type) {
  return type == OutputType::multiple_choice ? "multiple_choice" : "generate_until";
}

Json metric_list(const Task& task) {
  Json out = Json::array();
  for (const TaskMetric& metric : task.metric_list) {
    Json entry = {
        {"metric", metric.metric}, {"aggregation", "mean"}, {"higher_is_better", metric.higher_is_better}};
    if (metric.ignore_case) entry["ignore_case"] = true;
    if (metric.ignore_punctuation) entry["ignore_punctuation"] = true;
    if (!metric.regexes_to_ignore.empty()) entry["regexes_to_ignore"] = metric.regexes_to_ignore;
    out.push_back(std::move(entry));
  }
  return out;
}

Json filter_list(const Task& task) {
  Json out = Json::array();
  for (const AnswerFilter& filter : task.filter_list)
    out.push_back(
        {{"name", filter.name},
         {"filter",
          {{{"function", "regex"}, {"group_select", filter.group_select}, {"regex_pattern", filter.pattern}},
           {{"function", "take_first"}}}}});
  return out;
}

Json config_of(const TaskResult& result) {
  const Task& task = result.task;
  Json out = {{"task", task.task}};
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) out[key] = value;
  };
  add("dataset_path", task.data.path);
  add("dataset_name", task.data.name);
  add("test_split", task.data.test_split);
  add("fewshot_split", task.data.fewshot_split);
  out["output_type"] = type_name(task.output_type);
  add("description", task.description);
  add("doc_to_text", task.doc_to_text);
  add("doc_to_target", task.doc_to_target);
  add("doc_to_choice", task.doc_to_choice);
  out["target_delimiter"] = task.target_delimiter;
  out["fewshot_delimiter"] = task.fewshot_delimiter;
  out["num_fewshot"] = result.shots;
  out["metric_list"] = metric_list(task);
  if (task.output_type == OutputType::generate_until)
    out["generation_kwargs"] = {{"until", task.until}, {"max_gen_toks", task.max_gen_toks}};
  if (!task.filter_list.empty()) out["filter_list"] = filter_list(task);
  out["repeats"] = 1;
  out["metadata"] = {{"version", task.version}};
  return out;
}

/// The parts that lm-eval keeps by task.
struct Parts {
  Json results = Json::object(), groups = Json::object(), subtasks = Json::object(), configs = Json::object(),
       versions = Json::object(), shots = Json::object(), higher = Json::object(), samples = Json::object();

  void add_task(const TaskResult& result) {
    const std::string& name = result.task.task;
    configs[name] = config_of(result);
    versions[name] = result.task.version;
    shots[name] = result.shots;
    samples[name] = {{"original", result.all_items}, {"effective", result.items}};
    Json members = {{"name", name}, {"alias", name}, {"sample_len", result.items}};
    Json better = Json::object();
    bool any = false;
    for (const MetricScore& score : result.scores) {
      if (!score.failed.empty() || !std::isfinite(score.value)) continue;
      add_score(members, score);
      better[score.metric] = score.higher_is_better;
      any = true;
    }
    if (!any) return;  // readers expect a number
    results[name] = std::move(members);
    higher[name] = std::move(better);
  }

  // A group whose tasks share metric and filter: what lm-eval has as a group with a mean of its own.
  void add_group(const GroupResult& group, const EvalReport& report) {
    const std::string key = group_key(group.name);
    if (!group.score || group.tasks.size() < 2 || results.contains(key)) return;
    MetricScore mean;
    int64_t items = 0, all_items = 0, few = -1;
    for (const TaskResult& result : report.tasks) {
      if (std::ranges::find(group.tasks, result.task.task) == group.tasks.end()) continue;
      const MetricScore* score = nullptr;
      for (const MetricScore& candidate : result.scores)
        if (candidate.metric == group.metric && candidate.failed.empty() &&
            (mean.filter.empty() || candidate.filter == mean.filter)) {
          score = &candidate;
          break;
        }
      if (!score) return;
      mean.metric = score->metric, mean.filter = score->filter;
      mean.higher_is_better = score->higher_is_better;
      items += result.items;
      all_items += result.all_items;
      few = result.shots;
    }
    if (mean.metric.empty()) return;
    const double factor = percent_factor(mean.metric).value_or(1);
    mean.value = *group.score / factor;
    if (group.error) mean.error = *group.error / factor;
    Json members = {{"name", key}, {"alias", group.name}, {"sample_len", items}};
    add_score(members, mean);
    members["sample_count"] = {{score_key(mean), items}};
    results[key] = members;
    groups[key] = std::move(members);
    subtasks[key] = group.tasks;
    versions[key] = nullptr;
    shots[key] = few;
    higher[key] = {{mean.metric, mean.higher_is_better}};
    samples[key] = {{"original", all_items}, {"effective", items}};
  }
};

Json suites_of(const EvalReport& report) {
  const auto number = [](const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); };
  Json out = Json::array();
  for (const SuiteResult& suite : report.suites) {
    Json groups = Json::array();
    for (const GroupResult& group : suite.groups) {
      Json entry = {{"name", group.name},
                    {"tasks", group.tasks},
                    {"metric", group.metric},
                    {"score", number(group.score)},
                    {"stderr", number(group.error)}};
      if (!group.missing.empty()) entry["missing"] = group.missing;
      if (!group.note.empty()) entry["note"] = group.note;
      groups.push_back(std::move(entry));
    }
    out.push_back({{"name", suite.name},
                   {"title", suite.title},
                   {"average", number(suite.average)},
                   {"stderr", number(suite.error)},
                   {"groups", std::move(groups)}});
  }
  return out;
}

Json tasks_of(const EvalReport& report) {
  Json out = Json::array();
  for (const TaskResult& result : report.tasks) {
    Json entry = {{"task", result.task.task}, {"seconds", result.seconds}};
    if (!result.data_revision.empty()) entry["data_revision"] = result.data_revision;
    if (result.error) entry["error"] = *result.error;
    if (result.routing) entry["routing"] = routing_json(*result.routing);
    for (const MetricScore& score : result.scores)
      if (!score.failed.empty())
        entry["failed"].push_back({{"metric", score.metric},
                                   {"filter", score.filter},
                                   {"value", score.value},
                                   {"why", score.failed}});
    out.push_back(std::move(entry));
  }
  return out;
}

// Seconds since 1970; 0 for what is no date.
double unix_time(const std::string& date) {
  std::tm time = {};
  const char* end = strptime(date.c_str(), "%Y-%m-%dT%H:%M:%S", &time);
  return end ? static_cast<double>(timegm(&time)) : 0;
}

// As lm-eval makes file names of models.
std::string sanitized(const std::string& name) {
  std::string out;
  bool before = false;
  for (const char c : name) {
    const bool bad = std::string_view("\"<>:/|\\?*[]").find(c) != std::string_view::npos;
    if (!bad)
      out += c;
    else if (!before)
      out += "__";
    before = bad;
  }
  return out;
}

Json limit_of(const EvalReport& report) {
  int64_t most = 0;
  bool limited = false;
  for (const TaskResult& result : report.tasks) {
    most = std::max(most, result.items);
    limited = limited || (!result.error && result.items < result.all_items);
  }
  return limited ? Json(most) : Json(nullptr);
}

}  // namespace

Json report_json(const EvalReport& report) {
  Parts parts;
  for (const TaskResult& result : report.tasks) parts.add_task(result);
  for (const SuiteResult& suite : report.suites)
    for (const GroupResult& group : suite.groups) parts.add_group(group, report);
  Json out = {{"results", std::move(parts.results)}};
  if (!parts.groups.empty()) out["groups"] = std::move(parts.groups);
  out["group_subtasks"] = std::move(parts.subtasks);
  out["configs"] = std::move(parts.configs);
  out["versions"] = std::move(parts.versions);
  out["n-shot"] = std::move(parts.shots);
  out["higher_is_better"] = std::move(parts.higher);
  out["n-samples"] = std::move(parts.samples);
  out["config"] = {
      {"model", "moerge"}, {"model_args", {{"pretrained", report.model}}}, {"limit", limit_of(report)}};
  out["date"] = unix_time(report.date);
  out["model_source"] = "moerge";
  out["model_name"] = report.model;
  out["model_name_sanitized"] = sanitized(report.model);
  out["total_evaluation_time_seconds"] = fmt::format("{:.3f}", report.seconds);
  out["moerge"] = {
      {"version", report.version}, {"model_file", report.model_file}, {"model_sha256", report.model_sha256},
      {"date", report.date},       {"seconds", report.seconds},       {"suites", suites_of(report)},
      {"tasks", tasks_of(report)}};
  if (!report.expert_names.empty()) out["moerge"]["expert_names"] = report.expert_names;
  return out;
}

}  // namespace moerge
