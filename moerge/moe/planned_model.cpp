#include "moerge/moe/planned_model.h"

#include <algorithm>

#include "moerge/moe/steps.h"
#include "moerge/plan/values.h"

namespace moerge {
namespace {

// What a derived tensor reads ahead and gives back: its first source.
StoredTensor no_file(const TensorSpec& spec) { return {.spec = spec, .file = nullptr, .offset = 0}; }

StoredTensor derived(const TensorSpec& spec, StoredTensor source,
                     std::function<void(int64_t, int64_t, std::span<float>)> compute) {
  StoredTensor out = {.spec = spec, .file = source.file, .offset = source.offset};
  out.derivation =
      std::make_shared<Derivation>(Derivation{std::move(source), " (planned)", std::move(compute)});
  return out;
}

StoredTensor planned_tensor(const Plan& plan, const Step& step) {
  const Concat* concat = std::get_if<Concat>(&step.how);
  if (!concat) {
    const Fill& fill = std::get<Fill>(step.how);
    return derived(step.out, no_file(step.out),
                   [&fill, columns = step.out.elements() / step.out.shape[0]](int64_t first, int64_t count,
                                                                              std::span<float> values) {
                     const std::vector<float> all = fill.compute();
                     std::copy_n(all.begin() + first * columns, count * columns, values.begin());
                   });
  }
  const Part& part = concat->parts.front();
  const bool same = concat->parts.size() == 1 && !part.changes_values() &&
                    part.source->spec.dtype == step.out.dtype && part.source->spec.shape == step.out.shape;
  if (same) {
    StoredTensor out = *part.source;
    out.spec.name = step.out.name;
    return out;
  }
  return derived(step.out, *part.source,
                 [&plan, &step, columns = step.out.elements() / step.out.shape[0]](int64_t first, int64_t,
                                                                                   std::span<float> values) {
                   read_values(plan, step, columns, first, values);
                 });
}

}  // namespace

// The layout of the output does not matter here, and single experts are what the forward pass reads.
PlannedModel::PlannedModel(const MoePlan& moe)
    : plan_{.seed = moe.plan.seed, .steps = make_steps(moe, Layout::per_expert)} {
  std::vector<StoredTensor> tensors;
  for (const Step& step : plan_.steps) tensors.push_back(planned_tensor(plan_, step));
  model_ = std::make_unique<Model>(moe.config.file, moe.config.file, moe.model_config, std::move(tensors));
}

}  // namespace moerge
