// Deep et al., DELLA-Merging, https://arxiv.org/abs/2406.11617

#include "moerge/merge/methods/list.h"
#include "moerge/merge/task_arithmetic.h"

namespace moerge {
namespace {

constexpr ParameterSpec kParameters[] = {
    task_weight(),
    task_density(),
    {"epsilon", ParameterSpec::Type::number, ParameterSpec::Scope::model_but_base, 0.15,
     "how far the probabilities go from the density, down and up"},
    task_normalize(false),
    task_rescale(true),
    task_lambda(),
    task_int8_mask(),
};

}  // namespace

const MergeMethod kDellaLinear = {
    .name = "della_linear",
    .title = "Linear DELLA",
    .paper = "https://arxiv.org/abs/2406.11617",
    .summary = "random differences, larger ones more often",
    .parameters = kParameters,
    .base = BaseRole::required,
    .min_models = 1,
    .max_models = 0,
    .missing = MissingInput::refused,
    .check = check_rank_probabilities,
    .make =
        [](const MergeJob& job) {
          return make_task_arithmetic(job, {.thinning = Thinning::by_rank, .consensus = false});
        },
};

}  // namespace moerge
