#pragma once
// The gate modes, one file each.

#include "moerge/moe/gates/gate.h"

namespace moerge {

extern const GateMode kHidden, kHiddenLast, kHiddenAvg;  // hidden.cpp
extern const GateMode kCheapEmbed;                       // cheap_embed.cpp
extern const GateMode kRandom, kUniformRandom;           // random.cpp

}  // namespace moerge
