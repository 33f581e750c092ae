#include "moerge/eval/metrics.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "moerge/base/error.h"
#include "moerge/base/lower_case.h"
#include "moerge/eval/eq_bench.h"
#include "moerge/eval/python_text.h"
#include "moerge/eval/regex.h"

namespace moerge {
namespace {

constexpr std::string_view kInvalid = "[invalid]";
constexpr double kReadableShare = 83.33;  // percent of the answers; with fewer a run of EQ-Bench has failed

constexpr std::array<std::string_view, 7> kChoiceMetrics = {
    "acc", "acc_norm", "acc_bytes", "mc1", "mc2", "exact_match", "multiple_choice_grade"};
constexpr std::array<std::string_view, 5> kTextMetrics = {"exact_match", "eqbench", "percent_parseable",
                                                          "eqbench_v2", "eqbench_v1"};
// Of other tasks of lm-eval, whose reports are read.
constexpr std::array<std::string_view, 6> kOtherShares = {
    "f1", "mcc", "pass@1", "likelihood", "prompt_level_strict_acc", "inst_level_strict_acc"};

bool is_in(std::span<const std::string_view> list, std::string_view word) {
  return std::ranges::find(list, word) != list.end();
}

std::string key_of(std::string_view metric, std::string_view filter) {
  return fmt::format("{},{}", metric, filter);
}

// -------- multiple choice

size_t first_maximum(std::span<const double> values) {
  return static_cast<size_t>(std::ranges::max_element(values) - values.begin());
}

/// What the answer's loglikelihoods, divided by something for each choice, take for right.
class Choice {
 public:
  Choice(const EvalItem& item, const ItemAnswer& answer) : item_(item), answer_(answer) {
    for (const Loglikelihood& choice : answer.choices) values_.push_back(choice.value);
    if (values_.empty() || values_.size() != item.choices.size())
      fail(ErrorKind::input, "{}: {} choices, and loglikelihoods of {}", item.where, item.choices.size(),
           values_.size());
  }

  size_t best() const { return first_maximum(values_); }
  template <typename Length>
  size_t best_by(Length length) const {
    std::vector<double> values = values_;
    for (size_t i = 0; i < values.size(); i++) values[i] /= static_cast<double>(length(item_.choices[i]));
    return first_maximum(values);
  }
  double is_right(size_t choice) const {
    return std::ranges::find(item_.gold, static_cast<int64_t>(choice)) != item_.gold.end() ? 1 : 0;
  }
  double right_is_greedy() const {
    return std::ranges::any_of(
        item_.gold, [&](int64_t choice) { return answer_.choices[static_cast<size_t>(choice)].greedy; });
  }

  // Over the largest, or long answers would vanish in every term.
  double probability_of_right() const {
    double right = 0, all = 0;
    for (size_t i = 0; i < values_.size(); i++) {
      const double p = std::exp(values_[i] - values_[best()]);
      all += p;
      if (is_right(i) > 0) right += p;
    }
    return right / all;
  }

  double grade() const {
    const auto grades = item_.doc.is_object() ? item_.doc.find("target_scores") : item_.doc.end();
    const std::string& choice = item_.choices[best()];
    if (grades == item_.doc.end() || !grades->is_object())
      fail(ErrorKind::input,
           "{}: multiple_choice_grade needs an object \"target_scores\" (a number for each choice)",
           item_.where);
    const auto found = grades->find(choice);
    if (found == grades->end() || !found->is_number())
      fail(ErrorKind::input, "{}: \"target_scores\" has no number for the choice \"{}\"", item_.where,
           choice);
    return found->get<double>();
  }

 private:
  const EvalItem& item_;
  const ItemAnswer& answer_;
  std::vector<double> values_;
};

double score_choice(const std::string& metric, const Choice& choice) {
  if (metric == "acc" || metric == "mc1") return choice.is_right(choice.best());
  if (metric == "acc_norm") return choice.is_right(choice.best_by(code_points));
  if (metric == "acc_bytes")
    return choice.is_right(choice.best_by([](const std::string& text) { return text.size(); }));
  if (metric == "mc2") return choice.probability_of_right();
  if (metric == "exact_match") return choice.right_is_greedy();
  return choice.grade();
}

// -------- generated text

std::string without_punctuation(std::string text) {
  constexpr std::string_view kPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";  // string.punctuation
  std::erase_if(text, [&](char c) { return kPunctuation.find(c) != std::string_view::npos; });
  return text;
}

bool is_ascii(std::string_view text) {
  return std::ranges::none_of(text, [](char c) { return static_cast<unsigned char>(c) >= 0x80; });
}

bool equal_ignoring_case(const std::string& a, const std::string& b) {
  constexpr size_t kLong = 4096;  // a pattern that is no slower than it is worth
  if (lower_case(a) == lower_case(b)) return true;
  if (is_ascii(a) || is_ascii(b) || a.size() > kLong) return false;
  std::string pattern = "(?i)^";
  for (const char c : a)
    pattern += static_cast<unsigned char>(c) < 0x80 ? fmt::format("\\x{:02x}", c) : std::string(1, c);
  return !Regex(pattern + "$", "target").find_all(b, 1).empty();
}

double exact_match(const TaskMetric& metric, std::string answer, std::string target,
                   const std::string& where) {
  for (const std::string& pattern : metric.regexes_to_ignore) {
    const Regex regex(pattern, where);
    answer = regex.replace_all(answer, "");
    target = regex.replace_all(target, "");
  }
  if (metric.ignore_punctuation) {
    answer = without_punctuation(answer);
    target = without_punctuation(target);
  }
  return metric.ignore_case ? equal_ignoring_case(answer, target) : answer == target;
}

Json reference_of(const EvalItem& item, const char* member) {
  if (item.doc.is_object())
    if (const auto found = item.doc.find(member); found != item.doc.end()) return *found;
  return item.target;
}

// Percent; nothing for an answer that does not count.
std::optional<double> score_text(const TaskMetric& metric, const EvalItem& item, const std::string& answer,
                                 const std::string& where) {
  if (metric.metric == "exact_match") return exact_match(metric, answer, item.target, where);
  const bool first = metric.metric == "eqbench_v1";
  const auto reference = read_emotions(
      reference_of(item, first ? "reference_answer" : "reference_answer_fullscale"), item.where);
  const std::vector<EmotionScore> emotions = find_emotions(answer);
  const std::optional<double> score =
      first ? score_emotions_v1(reference, emotions) : score_emotions(reference, emotions);
  if (metric.metric == "percent_parseable") return score ? 100 : 0;
  if (!score && metric.metric == "eqbench") return 0;
  return score ? std::optional(10 * *score) : std::nullopt;
}

// -------- tasks

std::vector<std::string> filter_names(const Task& task) {
  std::vector<std::string> out;
  if (task.output_type == OutputType::generate_until)
    for (const AnswerFilter& filter : task.filter_list) out.push_back(filter.name);
  if (out.empty()) out.emplace_back("none");
  return out;
}

// "acc" for mc2, unless the task has that as well.
std::string_view name_in(const Task& task, const std::string& metric) {
  const std::string_view name = reported_name(metric);
  const bool taken = name != metric && std::ranges::any_of(task.metric_list, [&](const TaskMetric& other) {
                       return other.metric != metric && reported_name(other.metric) == name;
                     });
  return taken ? std::string_view(metric) : name;
}

MetricScore mean_of(std::span<const double> values) {
  const auto n = static_cast<double>(values.size());
  MetricScore out;
  double sum = 0, squares = 0;
  for (const double value : values) sum += value;
  out.value = values.empty() ? 0 : sum / n;
  for (const double value : values) squares += (value - out.value) * (value - out.value);
  if (values.size() > 1) out.error = std::sqrt(squares / (n - 1)) / std::sqrt(n);
  return out;
}

std::string why_failed(std::string_view metric, size_t readable, size_t all) {
  if (!metric.starts_with("eqbench_v") || all == 0) return "";
  const double share = 100 * static_cast<double>(readable) / static_cast<double>(all);
  if (share >= kReadableShare) return "";
  return fmt::format(
      "{} of {} answers are readable ({:.2f} %): EQ-Bench counts a run with under {} % as failed", readable,
      all, share, kReadableShare);
}

}  // namespace

std::span<const std::string_view> metric_names(OutputType type) {
  if (type == OutputType::multiple_choice) return kChoiceMetrics;
  return kTextMetrics;
}

std::string_view reported_name(std::string_view metric) {
  return metric == "mc1" || metric == "mc2" ? "acc" : metric;
}

std::optional<double> percent_factor(std::string_view metric) {
  if (metric.starts_with("eqbench") || metric == "percent_parseable") return 1;
  if (is_in(kChoiceMetrics, metric) || is_in(kTextMetrics, metric) || is_in(kOtherShares, metric)) return 100;
  return {};
}

std::string filtered_answer(const AnswerFilter& filter, const std::string& text) {
  if (filter.pattern.empty()) return text;
  const auto matches = Regex(filter.pattern, fmt::format("filter \"{}\"", filter.name)).find_all(text);
  const int64_t count = std::ssize(matches);
  const int64_t at = filter.group_select < 0 ? count + filter.group_select : filter.group_select;
  if (at < 0 || at >= count) return std::string(kInvalid);
  const Regex::Match& match = matches[static_cast<size_t>(at)];
  // Python's findall: all of the match, its one group, or of several the first that found something.
  if (match.size() <= 2) return std::string(stripped(match.back().value_or("")));
  for (size_t group = 1; group < match.size(); group++)
    if (match[group] && !match[group]->empty()) return std::string(stripped(*match[group]));
  return std::string(kInvalid);
}

ItemScores score_item(const Task& task, const EvalItem& item, const ItemAnswer& answer) {
  ItemScores out;
  if (task.output_type == OutputType::multiple_choice) {
    const Choice choice(item, answer);
    for (const TaskMetric& metric : task.metric_list)
      out[key_of(name_in(task, metric.metric), "none")] = score_choice(metric.metric, choice);
    return out;
  }
  const std::string& where = task.file.empty() ? task.task : task.file;
  const auto add = [&](const std::string& filter, const std::string& text) {
    for (const TaskMetric& metric : task.metric_list)
      if (const std::optional<double> score = score_text(metric, item, text, where))
        out[key_of(metric.metric, filter)] = *score;
  };
  if (task.filter_list.empty()) add("none", answer.text);
  for (const AnswerFilter& filter : task.filter_list) add(filter.name, filtered_answer(filter, answer.text));
  return out;
}

std::vector<MetricScore> aggregate(const Task& task, std::span<const ItemScores> scores) {
  std::vector<MetricScore> out;
  for (const std::string& filter : filter_names(task))
    for (const TaskMetric& metric : task.metric_list) {
      const std::string name(name_in(task, metric.metric));
      std::vector<double> values;
      for (const ItemScores& item : scores)
        if (const auto found = item.find(key_of(name, filter)); found != item.end())
          values.push_back(found->second);
      MetricScore score = mean_of(values);
      score.metric = name;
      score.filter = filter;
      score.higher_is_better = metric.higher_is_better;
      score.failed = why_failed(name, values.size(), scores.size());
      out.push_back(std::move(score));
    }
  return out;
}

}  // namespace moerge
