#include "moerge/plan/plan_text.h"

#include <fmt/format.h>

#include "moerge/base/file.h"

namespace moerge {

Json tensors_json(const Plan& plan, const FolderLayout& layout) {
  Json tensors = Json::array();
  const std::vector<TensorSpec> specs = plan.specs();
  for (const Shard& shard : layout.shards)
    for (const size_t i : shard.tensors)
      tensors.push_back({{"name", specs[i].name},
                         {"dtype", std::string(info(specs[i].dtype).torch)},
                         {"shape", specs[i].shape},
                         {"file", shard.file},
                         {"from", describe_sources(plan.steps[i])}});
  return tensors;
}

Json bytes_json(const PlanTotals& totals, const FolderLayout& layout) {
  return {{"total", totals.bytes},
          {"shared", layout.shared},
          {"copied", totals.copied - layout.shared},
          {"converted", totals.converted},
          {"computed", totals.computed}};
}

std::string written_text(const Plan& plan, const FolderLayout& layout) {
  const PlanTotals totals = plan.totals();
  const size_t files = layout.shards.size();
  return fmt::format("{} in {} file{}: {}{} copied, {} converted, {} computed", human_bytes(totals.bytes),
                     files, files == 1 ? "" : "s",
                     layout.shared > 0 ? human_bytes(layout.shared) + " shared with the sources, " : "",
                     human_bytes(totals.copied - layout.shared), human_bytes(totals.converted),
                     human_bytes(totals.computed));
}

}  // namespace moerge
