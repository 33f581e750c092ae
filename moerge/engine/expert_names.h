#pragma once
// What a GGUF calls its experts.

#include <cstdint>
#include <string>
#include <vector>

struct llama_model;

namespace moerge {

/// From the keys "moerge.expert.N.name" (docs/gguf.md), one each; none when one is missing.
std::vector<std::string> expert_names(const llama_model* model, int64_t experts);

}  // namespace moerge
