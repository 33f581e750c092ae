#pragma once
// Whether models fit together, found out before anything is written.

#include <string>
#include <vector>

#include "moerge/moe/outputs/output.h"

namespace moerge {

struct Findings {
  std::vector<std::string> damaged;   // a checkpoint is not what its config.json says
  std::vector<std::string> misfits;   // models that cannot be combined
  std::vector<std::string> warnings;  // they can, but an expert finds itself in other surroundings
};

/// Compares every expert with the base and every checkpoint with its own config.json.
Findings check_models_fit(const MoeModels& models);

}  // namespace moerge
