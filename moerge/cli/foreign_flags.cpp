#include "moerge/cli/foreign_flags.h"

#include <fmt/format.h>

namespace moerge {
namespace {

struct ForeignFlag {
  const char* name;  // as CLI11 spells it
  bool takes_value;
  const char* reason;
};

constexpr ForeignFlag kForeign[] = {
    {"--cuda,!--no-cuda", false,
     "copying and merging need no GPU; a forward pass runs on the device that --device names"},
    {"--low-cpu-memory,!--no-low-cpu-memory", false, "memory never holds more than one layer"},
    {"--read-to-gpu,!--no-read-to-gpu", false, "weights are copied from file to file"},
    {"--multi-gpu,!--no-multi-gpu", false, "weights are copied from file to file"},
    {"--gpu-rich", false, "weights are copied from file to file"},
    {"--lazy-unpickle,!--no-lazy-unpickle", false, "tensors are always read lazily"},
    {"--clone-tensors,!--no-clone-tensors", false, "every tensor is written on its own"},
    {"--async-write,!--no-async-write", false, "tensors are written in parallel"},
    {"--write-threads", true, "-j sets the threads"},
    {"--trust-remote-code,!--no-trust-remote-code", false, "no code from a model folder is ever run"},
    {"--unsafe-truncate-embeddings,!--no-unsafe-truncate-embeddings", false,
     "embeddings are the base model's"},
    {"--lora-merge-cache", true, "LoRA adapters are added while weights are read; no merged copy is kept"},
    {"--lora-merge-dtype", true,
     "a LoRA adapter is added in float32 and rounded once to the model's own type"},
    {"--safe-serialization,!--no-safe-serialization", false, "the result is always safetensors"},
};

}  // namespace

ForeignFlags::ForeignFlags(CLI::App& app, const std::string& program) : given_(std::size(kForeign)) {
  for (size_t i = 0; i < std::size(kForeign); i++) {
    const ForeignFlag& flag = kForeign[i];
    const std::string_view name = flag.name;
    if (app.get_option_no_throw(std::string(name.substr(0, name.find(','))))) continue;
    const std::string help = "accepted; " + std::string(flag.reason);
    CLI::Option* option = flag.takes_value ? app.add_option(flag.name, given_[i].value, help)
                                           : app.add_flag(flag.name, given_[i].flag, help);
    options_.emplace_back(option->group("Of " + program + ", without effect here"), flag.reason);
  }
}

void ForeignFlags::report(Reporter& reporter) const {
  for (const auto& [option, reason] : options_)
    if (option->count() > 0) reporter.info(fmt::format("{} has no effect: {}", option->get_name(), reason));
}

}  // namespace moerge
