#pragma once
// One step for every tensor of the output, once models, output family and layout are settled.

#include "moerge/moe/planner.h"

namespace moerge {

/// All but moe.plan must be settled. Routers are computed from moe.gates when the steps run; a bias that the
/// output has and the base has not is filled with zeros, which changes nothing.
std::vector<Step> make_steps(const MoePlan& moe, Layout layout);

}  // namespace moerge
