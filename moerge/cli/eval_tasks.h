#pragma once
// From --suite and --tasks to items that are ready to be asked.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "moerge/base/progress.h"
#include "moerge/eval/ask.h"
#include "moerge/eval/suite.h"

namespace moerge {

struct TaskWish {
  std::vector<std::string> suites, tasks;  // names, groups, files
  bool as_published = false;
  int64_t limit = -1;                 // items of each task; -1: all
  std::optional<int64_t> shots = {};  // instead of what task and suite say
  std::filesystem::path data = {};    // DataOptions::folder
};

/// What becomes one report: a task has one number of examples in it.
struct PreparedTasks {
  std::optional<Suite> suite;  // nothing: the tasks that were named
  std::vector<TaskRun> runs;
};

/// Fetches the data sets and makes the prompts, of each suite and then of the tasks that were named. What is
/// wrong with one task is in TaskRun::error, and told. Throws config for names that are none and for damaged
/// task files.
std::vector<PreparedTasks> prepare_tasks(const TaskWish& wish, Reporter& reporter);

/// Every task, group and suite by name: what --list prints.
std::string list_tasks();

}  // namespace moerge
