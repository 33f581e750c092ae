#pragma once
// The keys of task files, one task's at a time.

#include <string>
#include <vector>

#include "moerge/base/yaml.h"
#include "moerge/eval/task.h"

namespace moerge {

/// A file, or a part of it that replaces keys, and where its problems are told.
struct TaskLayer {
  const YamlNode* map = nullptr;
  YamlProblems* problems = nullptr;
};

/// Tells about keys that no task has, with the nearest one, and about those that are not possible here.
void check_task_keys(const YamlNode& map, YamlProblems& problems);

/// At least one layer; of those that have a key the last decides, also when it says null. `file`: for
/// messages.
Task read_task_keys(const std::vector<TaskLayer>& layers, const std::string& file);

}  // namespace moerge
