#include "moerge/moe/grow.h"

#include <fmt/format.h>

#include <cmath>

#include "moerge/base/error.h"
#include "moerge/model/mixture.h"

namespace moerge {
namespace {

double length_of(std::span<const float> row) {
  double squares = 0;
  for (const float value : row) squares += static_cast<double>(value) * value;
  return std::sqrt(squares);
}

}  // namespace

std::vector<ExpertSource> list_experts(const MoeModels& models, const MoeConfig& config) {
  std::vector<ExpertSource> out;
  for (int64_t e = 0; e < models.kept_experts(); e++) out.push_back({models.base, e, nullptr});
  for (size_t e = 0; e < models.experts.size(); e++)
    out.push_back({models.experts[e], -1, &config.experts[e]});
  return out;
}

std::string describe_experts(const MoeModels& models) {
  const size_t added = models.experts.size();
  if (models.kept_experts() == 0) return fmt::format("{} expert{}", added, added == 1 ? "" : "s");
  return fmt::format("{} of {} + {}", count_experts(models.kept_experts()), models.base->name, added);
}

std::vector<float> router_rows(const StoredTensor* old_rows, const GateTable& new_rows, int64_t added,
                               int64_t layer) {
  const auto hidden = static_cast<size_t>(new_rows.hidden);
  std::vector<float> out;
  double length = 0;
  if (old_rows) {
    out.resize(static_cast<size_t>(old_rows->spec.elements()));
    read_row_values(*old_rows, 0, old_rows->rows(), out);
    for (size_t first = 0; first < out.size(); first += hidden)
      length += length_of(std::span(out).subspan(first, hidden)) / static_cast<double>(old_rows->rows());
    if (!std::isfinite(length))
      fail(ErrorKind::input, "{}: the router \"{}\" holds infinite values or NaN",
           place_of(*old_rows).string(), old_rows->spec.name);
  }
  for (int64_t e = 0; e < added; e++) {
    const std::span<const float> row = new_rows.row(layer, e);
    const double own = length_of(row), factor = old_rows && own > 0 ? length / own : 1;
    for (const float value : row) out.push_back(static_cast<float>(value * factor));
  }
  return out;
}

}  // namespace moerge
