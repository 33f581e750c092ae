#pragma once
// Mixtures as inputs: their experts one by one, whatever the layout, and one of them alone as a dense model.

#include <span>
#include <string>
#include <vector>

#include "moerge/formats/checkpoint.h"
#include "moerge/model/architecture.h"
#include "moerge/model/config.h"

namespace moerge {

/// A tensor with a matrix (or several, one above the other) of every expert of a layer: [experts, rows,
/// columns].
struct ExpertStack {
  std::string name;         // with {layer}
  std::vector<Role> roles;  // of ffn_gate, ffn_up, ffn_down, from the top
};

/// Replaces stacks by one tensor an expert and matrix, under the family's names. They are parts of the
/// stack's bytes; nothing is copied. A stack of one expert may lack the first dimension. Throws input for a
/// stack of another shape than the configuration says, and for an expert that is there in both layouts.
void split_stacks(Checkpoint& checkpoint, const Architecture& architecture, const ModelConfig& config,
                  std::span<const ExpertStack> stacks);

/// The same for the family's StackedLayout, whose router may have another name as well.
void split_experts(Checkpoint& checkpoint, const Architecture& architecture, const ModelConfig& config);

/// "8 experts", "one expert".
std::string count_experts(int64_t experts);

/// Throws config, with the numbers there are, unless this mixture has such an expert (or shared expert, for
/// kSharedExpert). `name`: the mixture's, for the message.
void check_expert(const ModelConfig& config, int64_t expert, const std::string& name);

/// config.json of a dense model of the family `dense` with an expert of this mixture as its FFN. Every number
/// is spelt out, since the two families' defaults differ; rope and dtype are spelt as transformers 4 and 5
/// and llama.cpp all read them.
Json expert_config_json(const ModelConfig& mixture, const Architecture& architecture,
                        const Architecture& dense, int64_t expert);

/// Keeps what that dense model has, under the dense family's names, and what belongs to neither family.
void keep_expert(Checkpoint& checkpoint, const Architecture& architecture, const ModelConfig& mixture,
                 const Architecture& dense, int64_t expert);

}  // namespace moerge
