#include "moerge/plan/plan.h"

#include <fmt/format.h>

namespace moerge {

PlanTotals Plan::totals() const {
  PlanTotals totals;
  for (const Step& step : steps) {
    totals.tensors++;
    totals.bytes += step.out.bytes();
    const Concat* concat = std::get_if<Concat>(&step.how);
    if (!concat) {
      totals.computed += step.out.bytes();
      continue;
    }
    for (const Part& part : concat->parts) {
      const bool copied =
          part.source->spec.dtype == step.out.dtype && !part.source->derivation && !part.changes_values();
      (copied ? totals.copied : totals.converted) += byte_size(step.out.dtype, part.source->spec.elements());
    }
  }
  return totals;
}

std::vector<TensorSpec> Plan::specs() const {
  std::vector<TensorSpec> specs;
  specs.reserve(steps.size());
  for (const Step& step : steps) specs.push_back(step.out);
  return specs;
}

std::string describe_sources(const Step& step) {
  if (const Fill* fill = std::get_if<Fill>(&step.how)) return fill->description;
  std::string sources;
  for (const Part& part : std::get<Concat>(step.how).parts) {
    if (!sources.empty()) sources += " + ";
    sources += fmt::format("{}: {}", place_of(*part.source).string(), part.source->spec.name);
    if (part.source->derivation) sources += part.source->derivation->how;
    if (part.source->spec.dtype != step.out.dtype)
      sources += fmt::format(" ({})", info(part.source->spec.dtype).name());
    if (part.noise_scale != 0) sources += fmt::format(" + noise {}", part.noise_scale);
    if (part.residual_scale != 1) sources += fmt::format(" x {}", part.residual_scale);
  }
  return sources;
}

std::string describe(const Step& step) {
  return fmt::format("{}  {} {}  <- {}", step.out.name, info(step.out.dtype).name(),
                     to_string(step.out.shape), describe_sources(step));
}

}  // namespace moerge
