#pragma once
// The tasks and suites that the program knows, and those of the user's files.

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/eval/suite.h"
#include "moerge/eval/task.h"

namespace moerge {

/// Named with --tasks.
struct TaskGroup {
  std::string name;  // "mmlu"
  std::vector<std::string> tasks;
};

class TaskCatalog {
 public:
  /// `as_published`: tasks have the known faults that published scores have.
  explicit TaskCatalog(bool as_published = false);

  /// A task's name, a group's ("mmlu", "agieval", "gpt4all", "bigbench"), a YAML file with tasks of the
  /// user's own, or a folder of such files (those that begin with "_" are only included by others). Throws
  /// config: nothing of that name, with the nearest; what is wrong in a file.
  std::vector<Task> find(const std::string& what) const;
  /// One of suite_names(), or "all" of them. Throws config with the nearest.
  std::vector<Suite> suites(const std::string& name) const;

  const std::map<std::string, Task>& tasks() const { return tasks_; }
  const std::vector<TaskGroup>& groups() const { return groups_; }
  std::vector<std::string_view> suite_names() const;

 private:
  void add_tasks(std::string_view text, const std::string& name);
  void add_suite(std::string_view text, const std::string& name);

  bool as_published_;
  std::map<std::string, Task> tasks_;
  std::vector<TaskGroup> groups_;
  std::vector<Suite> suites_;
};

}  // namespace moerge
