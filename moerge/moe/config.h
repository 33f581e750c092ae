#pragma once
// The YAML of mergekit-moe: which base, which experts, which prompts.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/tensor/dtype.h"

namespace moerge {

struct ExpertConfig {
  std::string source_model;
  std::vector<std::string> positive_prompts, negative_prompts;
  double noise_scale = 0;     // standard deviation of noise added to the FFN weights; 0: none
  double residual_scale = 1;  // factor on ffn_down
};

struct MoeConfig {
  std::string base_model;
  std::vector<ExpertConfig> experts, shared_experts;
  std::string gate_mode = "hidden";
  std::optional<DType> dtype;  // of the output; empty: the base model's
  int64_t experts_per_token = 2;
  std::string architecture;        // output family, empty: chosen
  std::string architecture_place;  // "FILE:LINE:COLUMN" of it

  std::string file;                   // where it was read from, for messages
  std::string yaml;                   // the document itself
  std::vector<std::string> warnings;  // unknown keys and the like
};

/// Reads and checks a document as far as it can be checked without a model. Throws config with all problems
/// at once, one "FILE:LINE:COLUMN: message" a line. `allow_all_same`: experts may all be one model.
MoeConfig parse_moe_config(std::string_view yaml, const std::string& file, bool allow_all_same);

}  // namespace moerge
