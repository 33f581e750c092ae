#pragma once
// The families, one file each. To add one: a file beside this one, a line here, a line in architecture.cpp.

#include "moerge/model/architecture.h"

namespace moerge {

extern const Architecture kLlama, kMistral, kQwen2, kQwen3;           // dense
extern const Architecture kMixtral, kQwen2Moe, kQwen3Moe, kDeepseek;  // mixtures
// Written, never read, so architectures() leaves it out.
extern const Architecture kGraniteMoeShared;

}  // namespace moerge
