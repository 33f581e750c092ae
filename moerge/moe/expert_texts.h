#pragma once
// Reads every expert's data into its tokens, behind its prompts.

#include "moerge/model/tokenizer.h"
#include "moerge/moe/planner.h"

namespace moerge {

/// Adds to moe.gate_input.experts, which has the prompts, and counts. Throws what read_texts() throws; config
/// for experts that no router could tell apart or that have too little text for the gate mode. Adds warnings.
void add_texts(MoePlan& moe, const Tokenizer& tokenizer, const PlanOptions& options);

}  // namespace moerge
