#pragma once
// process_docs: changes of an item before a template sees it.

#include <string>
#include <string_view>
#include <vector>

#include "moerge/eval/doc_template.h"
#include "moerge/eval/items.h"
#include "moerge/eval/regex.h"
#include "moerge/eval/task.h"

namespace moerge {

class DocSteps {
 public:
  /// Adds what the steps need to `templates`; start() has not been called yet.
  DocSteps(const Task& task, DocTemplates& templates);

  /// The changed members, or null for an item that the task leaves out. Throws input naming item and step.
  Json apply(const Document& document);
  /// Some items may be left out.
  bool selects() const { return selects_; }

 private:
  struct Step {
    const DocStep& step;
    size_t value;  // in templates_
    std::vector<Regex> pattern;
  };
  DocTemplates& templates_;
  std::vector<Step> steps_;
  bool selects_ = false;
};

}  // namespace moerge
