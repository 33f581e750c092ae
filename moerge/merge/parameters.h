#pragma once
// Values of parameters as a configuration says them: one for all, by tensor name, along the layers.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/yaml.h"
#include "moerge/merge/method.h"

namespace moerge {

/// A value for the tensors whose names contain `filter` ("*" and "": all). Several points are spread evenly
/// over the layers of a slice: numbers are interpolated, of flags the one before counts.
struct ParameterRule {
  std::string filter = {};
  std::vector<double> points;
};

struct ParameterSetting {
  const ParameterSpec* spec;
  std::vector<ParameterRule> rules;
};

using ParameterSettings = std::vector<ParameterSetting>;

/// The map "parameters" of `map`, with the names and types of `method`; what is wrong becomes a problem, and
/// unknown names too.
ParameterSettings read_parameters(const YamlNode& map, const MergeMethod& method, YamlProblems& problems);

/// The first rule for a tensor, at `t` between 0 and 1 along its slice. Empty: nothing is said of it.
std::optional<double> evaluate(const ParameterSetting& setting, std::string_view tensor, double t);

}  // namespace moerge
