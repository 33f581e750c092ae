#pragma once
// Outputs whose base is a mixture already: the same family with more experts.

#include "moerge/moe/outputs/output.h"

namespace moerge {

/// The base's own family. Throws unsupported with a sentence why these models cannot be added to it.
const OutputArchitecture& choose_grown_output(const MoeModels& models, const MoeConfig& config,
                                              bool allow_mixed);

/// Why a base that is a mixture cannot grow as this family, as a sentence; empty when it can.
std::string why_not_grown(const OutputArchitecture& output, const MoeModels& models, const MoeConfig& config,
                          bool allow_mixed);

}  // namespace moerge
