#include "moerge/eval/ask.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <span>

#include "moerge/base/error.h"

namespace moerge {
namespace {

// Items of a task on their way: each is complete when its last request is answered.
class Asking {
 public:
  Asking(LanguageModel& model, const TaskRun& run, AnswersLog& log, Reporter& reporter)
      : model_(model),
        run_(run),
        log_(log),
        reporter_(reporter),
        answers_(run.items.size()),
        open_(run.items.size()),
        loads_before_(model.expert_loads()) {
    if (!run.items.empty()) run_key_ = question_hash(run.task, run.items[0]);
    routed_before_ = log.find_routing(run_key_);
    int64_t wanted = 0;
    for (size_t i = 0; i < run.items.size(); i++) {
      if (std::optional<ItemAnswer> known = log.find(run.task, run.items[i])) {
        answers_[i] = std::move(*known);
        continue;
      }
      open_[i] = std::max<size_t>(1, run.items[i].continuations.size());
      wanted++;
    }
    if (const int64_t known = std::ssize(run.items) - wanted; known > 0)
      reporter.info(
          fmt::format("{}: {} of {} items were answered before", run.task.task, known, run.items.size()));
    if (wanted > 0) progress_.emplace(reporter, run.task.task, wanted, Unit::items);
  }

  void ask() {
    if (!progress_) return;
    if (run_.task.output_type == OutputType::generate_until)
      generate();
    else
      score();
    log_.flush();
    progress_->finish();
    if (!cut_.empty())
      reporter_.warning(fmt::format(
          "{}: longer than the {} tokens of the context, {} tokens of its beginning were left out, as "
          "lm-eval does; so "
          "it was with {} of {} items; -c N allows longer ones, as far as the model was trained with them",
          run_.items[longest_].where, model_.context(), most_lost_, cut_.size(), run_.items.size()));
  }

  const std::vector<ItemAnswer>& answers() const { return answers_; }
  /// Of this run and of those before it that counted.
  std::optional<TaskRouting> routing() const {
    const std::vector<ExpertLoad> loads = difference(model_.expert_loads(), loads_before_);
    if (loads.empty() || answered_ == 0) return routed_before_;
    const TaskRouting before = routed_before_.value_or(TaskRouting());
    return TaskRouting{.items = before.items + answered_, .layers = sum(before.layers, loads)};
  }

 private:
  void score() {
    std::vector<LoglikelihoodRequest> requests;
    std::vector<std::pair<size_t, size_t>> places;  // item and choice
    for (size_t i = 0; i < run_.items.size(); i++) {
      if (open_[i] == 0) continue;
      const EvalItem& item = run_.items[i];
      answers_[i].choices.resize(item.continuations.size());
      for (size_t choice = 0; choice < item.continuations.size(); choice++) {
        requests.push_back(
            {item.contexts[item.contexts.size() == 1 ? 0 : choice], item.continuations[choice]});
        places.emplace_back(i, choice);
      }
    }
    model_.score(requests, [&](size_t index, const Loglikelihood& answer) {
      const auto [i, choice] = places[index];
      note_length(i, answer.lost);
      answers_[i].choices[choice] = answer;
      told(i);
    });
  }

  void generate() {
    std::vector<GenerationRequest> requests;
    std::vector<size_t> places;
    for (size_t i = 0; i < run_.items.size(); i++) {
      if (open_[i] == 0) continue;
      requests.push_back({run_.items[i].contexts.front(), run_.task.until, run_.task.max_gen_toks});
      places.push_back(i);
    }
    model_.generate(requests, [&](size_t index, const GeneratedText& answer) {
      note_length(places[index], answer.lost);
      answers_[places[index]].text = answer.text;
      told(places[index]);
    });
  }

  void note_length(size_t i, int64_t lost) {
    if (lost == 0) return;
    if (lost > most_lost_) longest_ = i;
    most_lost_ = std::max(most_lost_, lost);
    cut_.insert(i);
  }

  void told(size_t i) {
    if (--open_[i] > 0) return;
    answered_++;
    if (std::optional<TaskRouting> routed = routing()) log_.set_routing(run_key_, std::move(*routed));
    log_.add(run_.task, run_.items[i], answers_[i]);
    progress_->add(1);
  }

  LanguageModel& model_;
  const TaskRun& run_;
  AnswersLog& log_;
  Reporter& reporter_;
  std::vector<ItemAnswer> answers_;
  std::vector<size_t> open_;  // requests of an item that are not answered
  std::optional<Progress> progress_;
  std::string run_key_;  // of AnswersLog::set_routing()
  std::vector<ExpertLoad> loads_before_;
  std::optional<TaskRouting> routed_before_;
  int64_t answered_ = 0;  // items, in this run
  std::set<size_t> cut_;  // items that lost their beginning
  size_t longest_ = 0;    // of them
  int64_t most_lost_ = 0;
};

bool ends_all(const Error& error) {
  return error.kind() == ErrorKind::interrupted || error.kind() == ErrorKind::io;
}

}  // namespace

TaskResult ask(LanguageModel& model, const TaskRun& run, AnswersLog& log, Reporter& reporter) {
  TaskResult result = {.task = run.task,
                       .shots = run.shots,
                       .items = std::ssize(run.items),
                       .all_items = run.all_items,
                       .scores = {},
                       .data_revision = run.data_revision,
                       .error = run.error};
  if (result.error) return result;
  const auto start = std::chrono::steady_clock::now();
  try {
    Asking asking(model, run, log, reporter);
    asking.ask();
    result.routing = asking.routing();
    std::vector<ItemScores> scores;
    for (size_t i = 0; i < run.items.size(); i++)
      scores.push_back(score_item(run.task, run.items[i], asking.answers()[i]));
    result.scores = aggregate(run.task, scores);
  } catch (const Error& error) {
    if (ends_all(error)) throw;
    result.error = error.message();
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace moerge
