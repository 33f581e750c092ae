#pragma once
// A planned mixture of experts in words, numbers and JSON.

#include <cstdint>
#include <string>

#include "moerge/base/json.h"
#include "moerge/moe/planner.h"
#include "moerge/plan/plan_text.h"

namespace moerge {

/// What will be written, for people: a dozen lines.
std::string plan_text(const MoePlan& moe, const FolderLayout& layout);

/// The same for scripts, every tensor included.
Json plan_json(const MoePlan& moe, const FolderLayout& layout);

/// Of one of the experts that the gate mode makes rows for (as in gate_input.experts): "5 prompts, 1
/// negative", "no prompts", "5 prompts, 16384 tokens of text".
std::string describe_prompts(const MoePlan& moe, size_t expert);

/// How much of a shared expert a token gets: "weighed by a router of its own (5 prompts)", "added to every
/// token".
std::string describe_sharing(const MoePlan& moe, size_t shared_expert);

}  // namespace moerge
