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

  /// Experts that the base has already, being a mixture.
  int64_t kept_experts() const { return base->config.experts; }
};

struct OutputArchitecture {
  std::string_view name;                     // as `architecture:` names it
  const Architecture* architecture;          // of the output: names, shapes, what it has a place for
  std::span<const std::string_view> inputs;  // accepted model types
  struct {
    size_t least, most;
  } shared_experts = {0, 0};
  std::span<const std::string_view> rope_types = {};  // that its code knows; empty: those of transformers
  bool own_head_dim = false;                          // heads need not make up the hidden size
  bool fused_layout = true;                           // some reader knows --layout fused
  bool by_request_only = false;                       // never chosen by itself
  bool remote_code = false;  // its code is not in transformers: it takes trust_remote_code
  /// config.json of the output.
  Json (*make_config)(const MoeModels& models, const MoeConfig& config, DType dtype);

  /// Whether a shared expert is weighed by a router, which is made as the others are.
  bool routes_shared_experts() const { return find_weight(*architecture, Role::shared_router) != nullptr; }

  /// The name of an output tensor.
  std::string weight(Role role, int64_t layer = -1, int64_t expert = -1) const {
    return weight_name(weight_for(*architecture, role), layer, expert);
  }
};

std::span<const OutputArchitecture* const> output_architectures();

/// Whether `architecture:` of a YAML means this family: the beginning of its name, its model_type or its
/// class name, in any case.
bool matches_name(const OutputArchitecture& output, std::string_view wanted);

/// Why these models cannot become this family, as a sentence; empty when they can. `allow_mixed`: models of
/// different accepted types may be combined (--allow-crimes).
std::string why_not(const OutputArchitecture& output, const MoeModels& models, const MoeConfig& config,
                    bool allow_mixed);

/// A family, and why the models cannot become it; empty when they can.
struct FamilyFit {
  const OutputArchitecture* output;
  std::string why_not;
};
/// Every family. A base that is a mixture fits its own at most.
std::vector<FamilyFit> judge_outputs(const MoeModels& models, const MoeConfig& config, bool allow_mixed);

/// Whether a family is one that choose_output() considers: `architecture:` names it or, without that, it is
/// not by request only.
bool is_wanted(const OutputArchitecture& output, const MoeConfig& config);

/// The family that `architecture:` names, or the first that fits; of a base that is a mixture, its own.
/// Throws unsupported with a sentence per family.
const OutputArchitecture& choose_output(const MoeModels& models, const MoeConfig& config, bool allow_mixed);

}  // namespace moerge
