#pragma once
// The memory of a build, before it begins.

#include <algorithm>
#include <cstdint>

#include "moerge/engine/decoder_memory.h"
#include "moerge/moe/planner.h"

namespace moerge {

/// Anonymous memory in bytes. Pages of mapped files come on top: the kernel keeps them as long as nobody
/// needs the room.
struct BuildMemory {
  int64_t planning = 0;   // the most until now, while tokenizers were read: gone again when the build begins
  int64_t program = 0;    // this process as it is now: the plan, configurations, what tokenizers left behind
  int64_t buffers = 0;    // of the copying threads, and their stacks
  int64_t routers = 0;    // the table of router rows, and what the gate mode holds beside it
  DecoderMemory decoder;  // of the forward pass, where the gate mode needs one
  /// Routers are computed while the experts are copied.
  int64_t build() const { return program + buffers + routers + decoder.total(); }
  int64_t total() const { return std::max(planning, build()); }
};

/// To be asked when everything is planned and nothing else has been loaded: then the process is as large as
/// that of a build. `threads`: of the copying.
BuildMemory build_memory(const MoePlan& moe, const DecoderOptions& options, int threads);
/// Without routers.
BuildMemory build_memory(const Plan& plan, int threads);

}  // namespace moerge
