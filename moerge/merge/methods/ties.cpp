// Yadav et al., TIES-Merging, https://arxiv.org/abs/2306.01708

#include "moerge/merge/methods/list.h"
#include "moerge/merge/task_arithmetic.h"

namespace moerge {
namespace {

constexpr ParameterSpec kParameters[] = {
    task_weight(), task_density(), task_normalize(true), task_rescale(false), task_lambda(), task_int8_mask(),
};

}  // namespace

const MergeMethod kTies = {
    .name = "ties",
    .title = "TIES",
    .paper = "https://arxiv.org/abs/2306.01708",
    .summary = "the largest differences, those that agree about the sign",
    .parameters = kParameters,
    .base = BaseRole::required,
    .min_models = 1,
    .max_models = 0,
    .missing = MissingInput::refused,
    .make =
        [](const MergeJob& job) {
          return make_task_arithmetic(job, {.thinning = Thinning::largest, .consensus = true});
        },
};

}  // namespace moerge
