// Yuan et al., Reinforced Agent Merging, https://arxiv.org/abs/2601.13572

#include "moerge/merge/methods/list.h"
#include "moerge/merge/reinforced.h"

namespace moerge {
namespace {

constexpr ParameterSpec kParameters[] = {
    ram_epsilon(),
    {"r", ParameterSpec::Type::number, ParameterSpec::Scope::tensor, 0.1,
     "how much more what a model alone changes counts"},
    {"alpha", ParameterSpec::Type::number, ParameterSpec::Scope::tensor, 0.2,
     "where that stops growing with what it has in common with others"},
};

}  // namespace

const MergeMethod kRamPlusTl = {
    .name = "ramplus_tl",
    .title = "Reinforced Agent Merging Plus (Tensor-Local)",
    .paper = "https://arxiv.org/abs/2601.13572",
    .summary = "likewise, what one alone changes a little more",
    .parameters = kParameters,
    .base = BaseRole::required,
    .min_models = 1,
    .max_models = 0,
    .missing = MissingInput::refused,
    .make = [](const MergeJob& job) { return make_reinforced(job, true); },
};

}  // namespace moerge
