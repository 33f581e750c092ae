#pragma once
// Whether models fit together, found out before anything is written.

#include <string>
#include <vector>

#include "moerge/moe/outputs/output.h"

namespace moerge {

struct Findings {
  std::vector<std::string> errors, warnings;
};

/// Compares every expert with the base and every checkpoint with its own config.json.
Findings check_models_fit(const MoeModels& models);

}  // namespace moerge
