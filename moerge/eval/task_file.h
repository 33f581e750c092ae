#pragma once
// Task files: YAML -> Task. docs/eval-tasks.md lists the keys.

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/eval/task.h"

namespace moerge {

/// Another file that one includes.
struct IncludedFile {
  std::string text;
  std::string file;  // for messages, and where its own includes are relative to
};

struct TaskFileOptions {
  /// What `include: NAME` in `file` means. Throws when there is none.
  std::function<IncludedFile(const std::string& name, const std::string& file)> include = {};
  /// Keys under `as_published` replace the others: known faults of the harness that a score was published
  /// with.
  bool as_published = false;
};

/// What a file defines: one task; or several that share keys (`group` and a list of maps under `task`).
struct TaskFile {
  std::string group = {};  // empty: of none
  std::vector<Task> tasks;
};

/// Throws config with every problem of the file and of what it includes, each with its line and column, and
/// for a misspelt key the nearest one.
TaskFile parse_task_file(std::string_view text, const std::string& file, const TaskFileOptions& options = {});

/// The same for a file with one task.
Task parse_task(std::string_view text, const std::string& file, const TaskFileOptions& options = {});

}  // namespace moerge
