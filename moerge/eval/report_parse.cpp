// Reads results_*.json, of `moerge eval` or of lm-eval. They may be anybody's.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <map>

#include "moerge/base/error.h"
#include "moerge/eval/results.h"

namespace moerge {
namespace {

constexpr size_t kMaxTasks = 10'000, kMaxScores = 1000;

const Json* member(const Json& object, const std::string& key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

const Json* member(const Json& object, const std::string& key, const std::string& inner) {
  const Json* outer = member(object, key);
  return outer ? member(*outer, inner) : nullptr;
}

std::string text_in(const Json* object, const std::string& key) {
  const Json* value = object ? member(*object, key) : nullptr;
  return value && value->is_string() ? value->get<std::string>() : "";
}

std::optional<double> number_in(const Json* object, const std::string& key) {
  const Json* value = object ? member(*object, key) : nullptr;
  if (!value || !value->is_number()) return {};
  const double number = value->get<double>();
  return std::isfinite(number) ? std::optional(number) : std::nullopt;
}

int64_t count_in(const Json* object, const std::string& key) {
  const double number = number_in(object, key).value_or(0);
  return number >= 0 && number <= 1e15 ? static_cast<int64_t>(number) : 0;
}

/// A report and where it comes from, for messages.
class Reader {
 public:
  Reader(const Json& json, const std::string& where) : json_(json), where_(where) {}

  EvalReport read() {
    const Json* results = member(json_, "results");
    if (!results || !results->is_object()) refuse("no object \"results\" in it");
    if (results->size() > kMaxTasks) refuse(fmt::format("results of {} tasks", results->size()));
    const Json* own = member(json_, "moerge");
    EvalReport report = {.model = text_in(&json_, "model_name"),
                         .model_file = text_in(own, "model_file"),
                         .model_sha256 = text_in(own, "model_sha256"),
                         .date = text_in(own, "date"),
                         .version = text_in(own, "version"),
                         .seconds = number_in(own, "seconds").value_or(seconds())};
    if (report.model.empty()) report.model = model_of_config();
    if (report.date.empty()) report.date = date();
    for (const auto& [task, scores] : results->items())
      if (!is_group(task)) report.tasks.push_back(read_task(task, scores));
    if (own) add_own(*own, report);
    if (report.tasks.empty()) refuse("\"results\" holds no task");
    return report;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    fail(ErrorKind::input,
         "{}: {}: what `moerge eval` or the LM Evaluation Harness (lm_eval ... --output_path) writes is "
         "expected",
         where_, what);
  }

  bool is_group(const std::string& task) const {
    if (member(json_, "groups", task)) return true;
    const Json* subtasks = member(json_, "group_subtasks", task);
    return subtasks && subtasks->is_array() && !subtasks->empty();
  }

  double seconds() const {
    const std::string text = text_in(&json_, "total_evaluation_time_seconds");
    const double value = std::strtod(text.c_str(), nullptr);
    return std::isfinite(value) && value > 0 ? value : 0;
  }

  std::string date() const {
    const std::optional<double> seconds = number_in(&json_, "date");
    if (!seconds || *seconds <= 0 || *seconds > 4e9) return "";
    const auto time = static_cast<std::time_t>(*seconds);
    std::tm parts = {};
    gmtime_r(&time, &parts);
    char text[32];
    return std::string(text, std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts));
  }

  // Reports before 0.4.3 have the model in its arguments alone: "pretrained=org/name,dtype=float16".
  std::string model_of_config() const {
    const Json* arguments = member(json_, "config", "model_args");
    if (!arguments) return "";
    if (arguments->is_object()) return text_in(arguments, "pretrained");
    if (!arguments->is_string()) return "";
    std::string text = arguments->get<std::string>();
    const size_t at = text.find("pretrained=");
    if (at == std::string::npos) return text;
    text.erase(0, at + std::string_view("pretrained=").size());
    return text.substr(0, text.find(','));
  }

  TaskResult read_task(const std::string& name, const Json& scores) const {
    if (!scores.is_object() || scores.size() > kMaxScores)
      refuse(fmt::format("\"results\" of \"{}\" should be an object, found {}", name, scores.type_name()));
    TaskResult out;
    out.task.task = name;
    read_config(out.task, member(json_, "configs", name));
    if (const std::optional<double> version = number_in(member(json_, "versions"), name))
      out.task.version = *version;
    out.shots = count_in(member(json_, "n-shot"), name);
    const Json* samples = member(json_, "n-samples", name);
    out.items = samples ? count_in(samples, "effective") : count_in(&scores, "sample_len");
    out.all_items = samples ? count_in(samples, "original") : out.items;
    for (const auto& [key, value] : scores.items()) add_score(out, scores, key, value);
    return out;
  }

  void add_score(TaskResult& out, const Json& scores, const std::string& key, const Json& value) const {
    const size_t comma = key.find(',');
    MetricScore score = {.metric = key.substr(0, comma),
                         .filter = comma == std::string::npos ? "none" : key.substr(comma + 1)};
    if (!value.is_number() || score.metric.ends_with("_stderr") || score.metric == "sample_len") return;
    score.value = value.get<double>();
    if (!std::isfinite(score.value)) return;
    const std::string tail = comma == std::string::npos ? "" : key.substr(comma);
    score.error = number_in(&scores, score.metric + "_stderr" + tail);
    const Json* better = member(json_, "higher_is_better", out.task.task);
    const Json* up = better ? member(*better, score.metric) : nullptr;
    score.higher_is_better = !up || !up->is_boolean() || up->get<bool>();
    out.scores.push_back(std::move(score));
  }

  static void read_config(Task& task, const Json* config) {
    task.data.path = text_in(config, "dataset_path");
    task.data.name = text_in(config, "dataset_name");
    task.data.test_split = text_in(config, "test_split");
    if (task.data.test_split.empty()) task.data.test_split = text_in(config, "validation_split");
    if (text_in(config, "output_type") == "generate_until") task.output_type = OutputType::generate_until;
    const Json* metrics = config ? member(*config, "metric_list") : nullptr;
    if (!metrics || !metrics->is_array() || metrics->size() > kMaxScores) return;
    for (const Json& metric : *metrics) task.metric_list.push_back({.metric = text_in(&metric, "metric")});
  }

  // What lm-eval's members have no place for.
  void add_own(const Json& own, EvalReport& report) const {
    if (const Json* tasks = member(own, "tasks"); tasks && tasks->is_array() && tasks->size() <= kMaxTasks)
      add_own_tasks(*tasks, report);
    if (const Json* suites = member(own, "suites");
        suites && suites->is_array() && suites->size() <= kMaxTasks)
      for (const Json& suite : *suites) report.suites.push_back(read_suite(suite));
    if (const Json* names = member(own, "expert_names");
        names && names->is_array() && names->size() <= kMaxTasks)
      for (const Json& name : *names)
        report.expert_names.push_back(name.is_string() ? name.get<std::string>() : "");
  }

  // Tasks without a score are in no "results": they get their places back.
  void add_own_tasks(const Json& own, EvalReport& report) const {
    std::map<std::string, size_t> places;
    for (const Json& task : own) {
      add_own_task(task, report);
      places.emplace(text_in(&task, "task"), places.size());
    }
    std::ranges::stable_sort(report.tasks, {}, [&](const TaskResult& result) {
      const auto found = places.find(result.task.task);
      return found == places.end() ? places.size() : found->second;
    });
  }

  void add_own_task(const Json& own, EvalReport& report) const {
    const std::string name = text_in(&own, "task");
    if (name.empty()) return;
    auto found = std::ranges::find_if(report.tasks,
                                      [&](const TaskResult& result) { return result.task.task == name; });
    if (found == report.tasks.end()) {
      if (report.tasks.size() >= kMaxTasks) return;
      report.tasks.push_back(read_task(name, Json::object()));
      found = report.tasks.end() - 1;
    }
    found->seconds = number_in(&own, "seconds").value_or(0);
    found->data_revision = text_in(&own, "data_revision");
    if (const std::string error = text_in(&own, "error"); !error.empty()) found->error = error;
    if (const Json* routing = member(own, "routing")) found->routing = parse_routing(*routing);
    const Json* failed = member(own, "failed");
    if (!failed || !failed->is_array() || failed->size() > kMaxScores) return;
    for (const Json& score : *failed)
      found->scores.push_back({.metric = text_in(&score, "metric"),
                               .filter = text_in(&score, "filter"),
                               .value = number_in(&score, "value").value_or(0),
                               .failed = text_in(&score, "why")});
  }

  static SuiteResult read_suite(const Json& json) {
    SuiteResult out = {.name = text_in(&json, "name"),
                       .title = text_in(&json, "title"),
                       .average = number_in(&json, "average"),
                       .error = number_in(&json, "stderr")};
    const Json* groups = member(json, "groups");
    if (!groups || !groups->is_array() || groups->size() > kMaxTasks) return out;
    for (const Json& entry : *groups) {
      GroupResult group = {.name = text_in(&entry, "name"),
                           .metric = text_in(&entry, "metric"),
                           .score = number_in(&entry, "score"),
                           .error = number_in(&entry, "stderr"),
                           .missing = text_in(&entry, "missing"),
                           .note = text_in(&entry, "note")};
      const Json* tasks = member(entry, "tasks");
      if (tasks && tasks->is_array() && tasks->size() <= kMaxTasks)
        for (const Json& task : *tasks)
          if (task.is_string()) group.tasks.push_back(task.get<std::string>());
      out.groups.push_back(std::move(group));
    }
    return out;
  }

  const Json& json_;
  const std::string& where_;
};

}  // namespace

EvalReport parse_report(const Json& json, const std::string& where) { return Reader(json, where).read(); }

}  // namespace moerge
