#pragma once
// The output families, one file each.

#include "moerge/moe/outputs/output.h"

namespace moerge {

extern const OutputArchitecture kMixtralOutput, kDeepseekMoeOutput, kQwenMoeOutput, kQwen3MoeOutput,
    kGraniteMoeSharedOutput;

}  // namespace moerge
