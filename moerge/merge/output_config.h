#pragma once
// config.json of a merged model: the base's, as far as it still holds.

#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/merge/tensors.h"

namespace moerge {

/// `from`: the model whose config.json it is. What the models say otherwise, and what decides how their
/// weights are used, becomes a warning.
Json make_output_config(const MergeInput& input, const MergeModel& from, const MergedTensors& tensors,
                        std::vector<std::string>& warnings);

}  // namespace moerge
