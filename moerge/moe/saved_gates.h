#pragma once
// Routers as bytes, so that a build that was cut off need not make them again.

#include <optional>
#include <string>
#include <string_view>

#include "moerge/moe/gates/gate.h"

namespace moerge {

/// A line of JSON, then the rows as they are in memory.
std::string pack_gates(const Gates& gates);

/// Nothing when the bytes are no routers for this input.
std::optional<Gates> unpack_gates(std::string_view bytes, const GateInput& input);

}  // namespace moerge
