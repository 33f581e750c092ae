#pragma once
// What the routers of a build will do, in three lines, from counts that were made while they were.

#include <string>

#include "moerge/moe/planner.h"

namespace moerge {

/// Empty where the gate mode made none. MoePlan::gates must be there.
std::string forecast_text(const MoePlan& moe);

}  // namespace moerge
