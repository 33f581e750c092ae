#pragma once
// A planned merge in words and JSON.

#include <string>

#include "moerge/base/json.h"
#include "moerge/merge/planner.h"
#include "moerge/plan/plan_text.h"

namespace moerge {

/// What will be written, for people: a line a model or slice.
std::string merge_text(const MergePlan& merge, const FolderLayout& layout);

/// The same for scripts, every tensor included.
Json merge_json(const MergePlan& merge, const FolderLayout& layout);

/// The methods with their parameters, defaults and papers: `moerge list methods`.
std::string methods_text();
Json methods_json();

}  // namespace moerge
