#pragma once
// "gate_mode: auto": the mode that makes the most of what the experts come with.

#include <span>
#include <string>
#include <string_view>

#include "moerge/moe/config.h"

namespace moerge {

struct ChosenMode {
  std::string_view name;  // of a gate mode
  std::string reason;     // "every expert has data"
};

/// ridge where every expert has data; router_input where only some have, or where most prompts of every
/// expert are sentences (four words and more); hidden, mergekit's own, for single words.
ChosenMode choose_gate_mode(std::span<const ExpertConfig> experts);

}  // namespace moerge
