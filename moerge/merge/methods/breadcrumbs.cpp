// Davari and Belilovsky, Model Breadcrumbs, https://arxiv.org/abs/2312.06795

#include "moerge/merge/methods/list.h"
#include "moerge/merge/task_arithmetic.h"

namespace moerge {
namespace {

constexpr ParameterSpec kParameters[] = {
    task_weight(),
    task_density(),
    {"gamma", ParameterSpec::Type::number, ParameterSpec::Scope::model_but_base, 0.01,
     "share of the largest differences that is left out"},
    task_normalize(false),
    task_rescale(false),
    task_lambda(),
    task_int8_mask(),
};

}  // namespace

const MergeMethod kBreadcrumbs = {
    .name = "breadcrumbs",
    .title = "Model Breadcrumbs",
    .paper = "https://arxiv.org/abs/2312.06795",
    .summary = "differences that are neither outliers nor small",
    .parameters = kParameters,
    .base = BaseRole::required,
    .min_models = 1,
    .max_models = 0,
    .missing = MissingInput::refused,
    .make =
        [](const MergeJob& job) {
          return make_task_arithmetic(job, {.thinning = Thinning::without_outliers, .consensus = false});
        },
};

}  // namespace moerge
