// Ilharco et al., Editing Models with Task Arithmetic, https://arxiv.org/abs/2212.04089

#include "moerge/merge/task_arithmetic.h"

#include "moerge/merge/methods/list.h"

namespace moerge {
namespace {

constexpr ParameterSpec kParameters[] = {
    task_weight(),       task_density(), task_normalize(false),
    task_rescale(false), task_lambda(),  task_int8_mask(),
};

}  // namespace

const MergeMethod kTaskArithmetic = {
    .name = "task_arithmetic",
    .title = "Task Arithmetic",
    .paper = "https://arxiv.org/abs/2212.04089",
    .summary = "the base plus the weighted sum of the differences from it",
    .parameters = kParameters,
    .base = BaseRole::required,
    .min_models = 1,
    .max_models = 0,
    .missing = MissingInput::refused,
    .make =
        [](const MergeJob& job) {
          return make_task_arithmetic(job, {.thinning = Thinning::none, .consensus = false});
        },
};

}  // namespace moerge
