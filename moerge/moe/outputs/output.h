#pragma once
// Output families: MoE checkpoints that other programs load. One file each; a new one adds a file and a line
// in output.cpp.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/model/model.h"
#include "moerge/moe/config.h"

namespace moerge {

/// How expert weights are stored: one tensor an expert and matrix (what every reader knows), or all experts
/// of a layer in one tensor (the in-memory layout of transformers 5, which the newest mergekit writes).
enum class Layout { per_expert, fused };

struct MoeModels {
  const Model* base;
  std::vector<const Model*> experts;  // one an expert; the same model may appear twice
  std::vector<const Model*> shared_experts;
};

struct OutputArchitecture {
  std::string_view name;                     // as `architecture:` names it
  const Architecture* architecture;          // of the output: names, shapes, what it has a place for
  std::span<const std::string_view> inputs;  // accepted model types
  /// config.json of the output.
  Json (*make_config)(const MoeModels& models, const MoeConfig& config, DType dtype);

  /// The name of an output tensor.
  std::string weight(Role role, int64_t layer = -1, int64_t expert = -1) const {
    return weight_name(weight_for(*architecture, role), layer, expert);
  }
};

std::span<const OutputArchitecture* const> output_architectures();

/// Why these models cannot become this family, as a sentence; empty when they can. `allow_mixed`: models of
/// different accepted types may be combined (--allow-crimes).
std::string why_not(const OutputArchitecture& output, const MoeModels& models, const MoeConfig& config,
                    bool allow_mixed);

/// The family that `architecture:` names, or the first that fits. Throws unsupported with a sentence per
/// family.
const OutputArchitecture& choose_output(const MoeModels& models, const MoeConfig& config, bool allow_mixed);

}  // namespace moerge
