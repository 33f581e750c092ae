#pragma once
// Flags of mergekit's programs that change nothing here: accepted, so that commands written for them run, and
// answered with the reason.

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "moerge/base/progress.h"

namespace moerge {

class ForeignFlags {
 public:
  /// Adds those of the program of that name that `app` does not have yet.
  ForeignFlags(CLI::App& app, const std::string& program);
  ForeignFlags(const ForeignFlags&) = delete;
  ForeignFlags& operator=(const ForeignFlags&) = delete;

  /// A line for each that was given.
  void report(Reporter& reporter) const;

 private:
  struct Given {
    bool flag = false;
    std::string value;
  };
  std::vector<Given> given_;
  std::vector<std::pair<const CLI::Option*, const char*>> options_;  // with the reason
};

}  // namespace moerge
