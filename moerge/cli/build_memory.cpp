#include "moerge/cli/build_memory.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "moerge/moe/gate_job.h"
#include "moerge/moe/gates/gate_texts.h"
#include "moerge/moe/planned_model.h"
#include "moerge/plan/execute.h"

namespace moerge {
namespace {

constexpr int64_t kThread = 256 << 10;  // what a thread touches of its stack and of the allocator's arena

// Of this process, in bytes; 0 where the kernel does not tell.
struct Resident {
  int64_t anonymous = 0, file = 0, most = 0;
};

// Lines like "RssAnon:      2568 kB".
Resident resident_memory() {
  Resident out;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    for (const auto& [name, value] :
         {std::pair{"RssAnon:", &out.anonymous}, {"RssFile:", &out.file}, {"VmHWM:", &out.most}})
      if (line.starts_with(name)) *value = 1024 * std::strtoll(line.c_str() + std::strlen(name), nullptr, 10);
  return out;
}

}  // namespace

BuildMemory build_memory(const Plan& plan, int threads) {
  BuildMemory memory;
  // Planning gives no pages of files back: those of its peak were no more than those of now.
  const Resident resident = resident_memory();
  memory.planning = resident.most - resident.file;
  memory.program = resident.anonymous;
  memory.buffers = buffer_bytes(plan, threads) + threads * kThread;
  return memory;
}

BuildMemory build_memory(const MoePlan& moe, const DecoderOptions& options, int threads) {
  BuildMemory memory = build_memory(moe.plan, threads);
  memory.routers = gate_bytes(moe);
  if (moe.gate_mode->needs == GateNeeds::base_pass)
    memory.decoder = decoder_memory(*moe.models.base, options, gate_texts(moe.gate_input).sequences);
  if (moe.gate_mode->needs == GateNeeds::mixture_pass)
    memory.decoder = decoder_memory(PlannedModel(moe).model(), options, gate_texts(moe.gate_input).sequences);
  return memory;
}

}  // namespace moerge
