#pragma once
// README.md of the result.

#include <string>

#include "moerge/moe/extract.h"
#include "moerge/moe/planner.h"

namespace moerge {

/// A model card: front matter as the Hub reads it, the experts, the numbers, the configuration, how to use
/// it. Names and texts are escaped so that no model name breaks Markdown or YAML.
std::string model_card(const MoePlan& moe, const std::string& name);

/// The same of an expert that was taken out of a mixture.
std::string expert_card(const ExtractPlan& extract, const std::string& name);

}  // namespace moerge
