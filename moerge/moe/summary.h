#pragma once
// A planned mixture of experts in words, numbers and JSON.

#include <cstdint>
#include <string>

#include "moerge/base/json.h"
#include "moerge/moe/planner.h"
#include "moerge/plan/folder_layout.h"

namespace moerge {

/// What will be written, for people: a dozen lines.
std::string plan_text(const MoePlan& moe, const FolderLayout& layout);

/// The same for scripts, every tensor included.
Json plan_json(const MoePlan& moe, const FolderLayout& layout);

/// Its "tensors" and "bytes": every tensor with type, shape, file and sources; bytes by how they come about.
Json tensors_json(const Plan& plan, const FolderLayout& layout);
Json bytes_json(const PlanTotals& totals, const FolderLayout& layout);
/// "12 MB in 1 file: 12 MB copied, 0 B converted, 0 B computed"; first "11 MB shared, " where blocks are.
std::string written_text(const Plan& plan, const FolderLayout& layout);

/// Of one of the experts that the gate mode makes rows for (as in gate_input.experts): "5 prompts, 1
/// negative", "no prompts", "5 prompts, 16384 tokens of text".
std::string describe_prompts(const MoePlan& moe, size_t expert);

/// How much of a shared expert a token gets: "weighed by a router of its own (5 prompts)", "added to every
/// token".
std::string describe_sharing(const MoePlan& moe, size_t shared_expert);

}  // namespace moerge
