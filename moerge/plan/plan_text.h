#pragma once
// A plan and where it will be written, in words and JSON: what every command that writes a folder says.

#include <string>

#include "moerge/base/json.h"
#include "moerge/plan/folder_layout.h"
#include "moerge/plan/plan.h"

namespace moerge {

/// "tensors" and "bytes" of a plan in JSON: every tensor with type, shape, file and sources; bytes by how
/// they come about.
Json tensors_json(const Plan& plan, const FolderLayout& layout);
Json bytes_json(const PlanTotals& totals, const FolderLayout& layout);
/// "12 MB in 1 file: 12 MB copied, 0 B converted, 0 B computed"; first "11 MB shared, " where blocks are.
std::string written_text(const Plan& plan, const FolderLayout& layout);

}  // namespace moerge
