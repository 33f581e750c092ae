#pragma once
// The gate modes, one file each.

#include "moerge/moe/gates/gate.h"

namespace moerge {

extern const GateMode kHidden, kHiddenLast, kHiddenAvg;  // hidden.cpp
extern const GateMode kRouterInput;                      // router_input.cpp
extern const GateMode kRidge;                            // ridge.cpp
extern const GateMode kCheapEmbed;                       // cheap_embed.cpp
extern const GateMode kRandom, kUniformRandom;           // random.cpp

}  // namespace moerge
