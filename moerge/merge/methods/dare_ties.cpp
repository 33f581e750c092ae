// Yu et al., Language Models are Super Mario (DARE), with the signs of TIES, https://arxiv.org/abs/2311.03099

#include "moerge/merge/methods/list.h"
#include "moerge/merge/task_arithmetic.h"

namespace moerge {
namespace {

constexpr ParameterSpec kParameters[] = {
    task_weight(), task_density(), task_normalize(false), task_rescale(true), task_lambda(), task_int8_mask(),
};

}  // namespace

const MergeMethod kDareTies = {
    .name = "dare_ties",
    .title = "DARE TIES",
    .paper = "https://arxiv.org/abs/2311.03099",
    .summary = "random differences, scaled up, those that agree about the sign",
    .parameters = kParameters,
    .base = BaseRole::required,
    .min_models = 1,
    .max_models = 0,
    .missing = MissingInput::refused,
    .make =
        [](const MergeJob& job) {
          return make_task_arithmetic(job, {.thinning = Thinning::random, .consensus = true});
        },
};

}  // namespace moerge
