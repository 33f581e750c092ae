#pragma once
// Asks a model the items of tasks.

#include <optional>
#include <string>
#include <vector>

#include "moerge/base/progress.h"
#include "moerge/eval/answers_log.h"
#include "moerge/eval/items.h"
#include "moerge/eval/language_model.h"
#include "moerge/eval/results.h"
#include "moerge/eval/task.h"

namespace moerge {

/// A task made ready.
struct TaskRun {
  Task task;
  int64_t shots = 0;
  std::vector<EvalItem> items;
  int64_t all_items = 0;  // of the split
  std::string data_revision = {};
  std::optional<std::string> error = {};  // why it cannot be asked
};

/// The scores. Answers that `log` has are not asked again. What goes wrong with this task alone becomes
/// TaskResult::error; interrupts and errors of the disk are thrown.
TaskResult ask(LanguageModel& model, const TaskRun& run, AnswersLog& log, Reporter& reporter);

}  // namespace moerge
