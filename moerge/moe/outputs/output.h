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

/// Names with {layer} and {expert} in them.
struct ExpertNames {
  std::string_view router;                      // [experts, hidden]
  std::string_view ffn_gate, ffn_up, ffn_down;  // per_expert: [ffn, hidden], [ffn, hidden], [hidden, ffn]
  std::string_view gate_up;                     // fused: [experts, 2 * ffn, hidden], gate rows before up rows
  std::string_view down;                        // fused: [experts, hidden, ffn]
};

struct MoeModels {
  const Model* base;
  std::vector<const Model*> experts;  // one an expert; the same model may appear twice
};

struct OutputArchitecture {
  std::string_view name;        // as `architecture:` names it
  std::string_view model_type;  // in config.json
  std::string_view class_name;
  std::span<const std::string_view> inputs;  // accepted model types
  std::span<const Role> held;                // weights of the base that it has a place for
  ExpertNames per_expert, fused;
  /// config.json of the output.
  Json (*make_config)(const MoeModels& models, const MoeConfig& config, DType dtype);

  const ExpertNames& names(Layout layout) const { return layout == Layout::fused ? fused : per_expert; }
};

std::span<const OutputArchitecture* const> output_architectures();

/// Why these models cannot become this family, as a sentence; empty when they can. `allow_mixed`: models of
/// different accepted types may be combined (--allow-crimes).
std::string why_not(const OutputArchitecture& output, const MoeModels& models, const MoeConfig& config,
                    bool allow_mixed);

/// The family that `architecture:` names, or the first that fits. Throws unsupported with a sentence per
/// family.
const OutputArchitecture& choose_output(const MoeModels& models, const MoeConfig& config, bool allow_mixed);

/// Replaces {layer} and {expert}.
std::string fill_name(std::string_view name, int64_t layer, int64_t expert = -1);

}  // namespace moerge
