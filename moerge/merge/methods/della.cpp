// Deep et al., DELLA-Merging, with the signs of TIES, https://arxiv.org/abs/2406.11617

#include "moerge/merge/methods/list.h"
#include "moerge/merge/task_arithmetic.h"

namespace moerge {
namespace {

constexpr ParameterSpec kParameters[] = {
    task_weight(),
    task_density(),
    {"epsilon", ParameterSpec::Type::number, ParameterSpec::Scope::model_but_base, 0.15,
     "how far the probabilities go from the density, down and up"},
    task_normalize(true),
    task_rescale(true),
    task_lambda(),
    task_int8_mask(),
};

}  // namespace

const MergeMethod kDella = {
    .name = "della",
    .title = "DELLA",
    .paper = "https://arxiv.org/abs/2406.11617",
    .summary = "random differences, larger ones more often, those that agree about the sign",
    .parameters = kParameters,
    .base = BaseRole::required,
    .min_models = 1,
    .max_models = 0,
    .missing = MissingInput::refused,
    .check = check_rank_probabilities,
    .make =
        [](const MergeJob& job) {
          return make_task_arithmetic(job, {.thinning = Thinning::by_rank, .consensus = true});
        },
};

}  // namespace moerge
