// Yuan et al., Reinforced Agent Merging, https://arxiv.org/abs/2601.13572

#include "moerge/merge/methods/list.h"
#include "moerge/merge/reinforced.h"

namespace moerge {
namespace {

constexpr ParameterSpec kParameters[] = {
    ram_epsilon(),
};

}  // namespace

const MergeMethod kRam = {
    .name = "ram",
    .title = "Reinforced Agent Merging",
    .paper = "https://arxiv.org/abs/2601.13572",
    .summary = "what one model alone changes, and the mean of what several change",
    .parameters = kParameters,
    .base = BaseRole::required,
    .min_models = 1,
    .max_models = 0,
    .missing = MissingInput::refused,
    .make = [](const MergeJob& job) { return make_reinforced(job, false); },
};

}  // namespace moerge
