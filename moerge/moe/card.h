#pragma once
// README.md of the result, and the plan as text and JSON.

#include <string>

#include "moerge/base/json.h"
#include "moerge/moe/planner.h"

namespace moerge {

/// A model card: front matter as the Hub reads it, the experts, the numbers, the configuration, how to use
/// it. Names and texts are escaped so that no model name breaks Markdown or YAML.
std::string model_card(const MoePlan& moe, const std::string& name);

/// What will be written, for people: a dozen lines.
std::string plan_text(const MoePlan& moe, int64_t max_shard_bytes);

/// The same for scripts, every tensor included.
Json plan_json(const MoePlan& moe, int64_t max_shard_bytes);

/// "24.2B", "1.0M".
std::string human_count(int64_t count);

}  // namespace moerge
