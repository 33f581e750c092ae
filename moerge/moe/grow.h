#pragma once
// A base that is a mixture already keeps its experts and gets more of them.

#include <cstdint>
#include <vector>

#include "moerge/moe/gates/gate.h"
#include "moerge/moe/outputs/output.h"

namespace moerge {

/// Where an expert's FFN comes from.
struct ExpertSource {
  const Model* model;
  int64_t expert;              // of the model; -1: its only FFN
  const ExpertConfig* config;  // null: an expert of the base, kept as it is
};

/// All experts of the result by their numbers: the base's own, then those of the configuration.
std::vector<ExpertSource> list_experts(const MoeModels& models, const MoeConfig& config);

/// "9 experts", "8 experts of BASE + 1".
std::string describe_experts(const MoeModels& models);

/// The router of one layer, float32 [old + added, hidden]: the old rows unchanged, then the first `added` of
/// the new ones, which come from a gate mode at any length (most often 1), at the mean length of the old
/// rows:
///   new_row * mean over old rows r of |r| / |new_row|,  |x| = sqrt(sum of x_i^2).
/// So a prompt's direction competes with the old rows on equal terms, in random modes as well. A row of zeros
/// stays one. Throws input when the old rows have no finite length. `old_rows`: null for a dense base, whose
/// rows are the gate mode's.
std::vector<float> router_rows(const StoredTensor* old_rows, const GateTable& new_rows, int64_t added,
                               int64_t layer);

}  // namespace moerge
