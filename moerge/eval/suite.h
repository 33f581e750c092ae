#pragma once
// Suites of tasks and how their scores become one number, as published.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace moerge {

struct SuiteGroup {
  std::string name;  // "GPT4All"
  std::vector<std::string> tasks;
  /// Of each task the first of these that it has: acc_norm before acc, say.
  std::vector<std::string> metrics;
};

/// A group's score is the plain mean of its tasks', the suite's the plain mean of its groups'.
struct Suite {
  std::string suite;  // "nous"
  std::string title;  // "Nous"
  std::vector<SuiteGroup> groups;
  bool zero_shot = false;                     // all tasks, whatever they say themselves
  std::map<std::string, int64_t> shots = {};  // of a task by name, instead of what it says itself
};

}  // namespace moerge
