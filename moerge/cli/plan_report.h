#pragma once
// What `moerge plan` has to say.

#include <optional>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/cli/build_memory.h"
#include "moerge/cli/gguf_forecast.h"
#include "moerge/merge/planner.h"
#include "moerge/moe/planner.h"
#include "moerge/plan/folder_layout.h"
#include "moerge/plan/source_bytes.h"

namespace moerge {

/// Whether the model can be built at OUT.
struct DiskForecast {
  std::string out;
  int64_t needed = 0, free = 0;
  std::string problem;  // empty: it can
};

/// What any plan costs.
struct PlanForecast {
  FolderLayout layout = {};
  SourceBytes read = {};
  BuildMemory memory = {};
  std::optional<DiskForecast> disk = {};
  GgufForecast gguf = {};

  /// Of the plan and of the GGUF files.
  std::vector<std::string> warnings(const std::vector<std::string>& of_plan) const;
};

struct PlanReport {
  const MoePlan& moe;
  PlanForecast forecast = {};
  std::vector<FamilyFit> families = {};
};

std::string report_text(const PlanReport& report);
Json report_json(const PlanReport& report);
/// Of a merge.
std::string report_text(const MergePlan& merge, const PlanForecast& forecast);
Json report_json(const MergePlan& merge, const PlanForecast& forecast);

/// The families alone. `chosen`: null when there is none.
std::string families_text(const std::vector<FamilyFit>& families, const MoeConfig& config,
                          const FamilyFit* chosen);
Json families_json(const std::vector<FamilyFit>& families, const FamilyFit* chosen);

/// The one that choose_output() takes, or null.
const FamilyFit* find_chosen(const std::vector<FamilyFit>& families, const MoeConfig& config);

}  // namespace moerge
