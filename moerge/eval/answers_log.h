#pragma once
// Answers as they come, on the disk: a run that was cut off asks only what it had not asked, and whoever
// wants to know why a score is what it is can look.

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "moerge/base/progress.h"
#include "moerge/eval/items.h"
#include "moerge/eval/metrics.h"
#include "moerge/eval/routing.h"
#include "moerge/eval/task.h"
#include "moerge/formats/write_journal.h"

namespace moerge {

/// What decides about an answer: the prompt with its examples, the choices, and where a generated text ends.
/// 16 hexadecimal digits.
std::string question_hash(const Task& task, const EvalItem& item);

/// A file of JSON lines: a head that says of which model, then lists of items.
class AnswersLog {
 public:
  /// `model`: whose answers these are, and all that changes them; another's are forgotten, and `reporter`
  /// says so. Throws io when another run writes here.
  AnswersLog(const std::filesystem::path& file, const Json& model, Reporter& reporter);
  AnswersLog(const AnswersLog&) = delete;
  AnswersLog& operator=(const AnswersLog&) = delete;
  /// Keeps what was added; errors of the disk are lost here, so flush() first.
  ~AnswersLog();

  /// Of an earlier run, or of this one.
  std::optional<ItemAnswer> find(const Task& task, const EvalItem& item) const;
  /// On the disk after a few seconds, or 256 items.
  void add(const Task& task, const EvalItem& item, const ItemAnswer& answer);
  /// Where the answers of a task, all so far, were routed; `run`: question_hash() of its first item. Written
  /// with the answers that are added next. Counts of answers that were not logged are lost with them.
  void set_routing(const std::string& run, TaskRouting routing);
  std::optional<TaskRouting> find_routing(const std::string& run) const;
  void flush();
  /// Answers that were there at the beginning.
  int64_t found() const { return found_; }

 private:
  WriteJournal journal_;
  std::map<std::string, ItemAnswer> answers_;  // by question
  Json pending_ = Json::array();
  std::map<std::string, TaskRouting> routing_;  // by run
  std::string routed_run_;                      // whose routing is not written yet; empty: none
  int64_t found_ = 0;
  std::chrono::steady_clock::time_point flushed_ = std::chrono::steady_clock::now();
};

}  // namespace moerge
