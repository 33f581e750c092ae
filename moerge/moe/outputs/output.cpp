#include "moerge/moe/outputs/output.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "moerge/base/error.h"
#include "moerge/base/suggest.h"
#include "moerge/moe/outputs/list.h"

namespace moerge {
namespace {

constexpr std::array<const OutputArchitecture*, 1> kOutputs = {&kMixtralOutput};

std::string lowercase(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

}  // namespace

std::span<const OutputArchitecture* const> output_architectures() { return kOutputs; }

std::string why_not(const OutputArchitecture& output, const MoeModels& models, const MoeConfig& config,
                    bool allow_mixed) {
  if (!config.shared_experts.empty()) return fmt::format("{} has no shared experts", output.name);
  std::vector<const Model*> all = models.experts;
  all.insert(all.begin(), models.base);
  for (const Model* model : all) {
    if (std::ranges::find(output.inputs, model->config.model_type) == output.inputs.end())
      return fmt::format("{} takes {} models, and \"{}\" is a {} model", output.name,
                         fmt::join(output.inputs, " or "), model->name, model->config.model_type);
    if (model->config.model_type != models.base->config.model_type && !allow_mixed)
      return fmt::format(
          "\"{}\" is a {} model and the base model \"{}\" a {} model; pass --allow-crimes to combine them "
          "all the same",
          model->name, model->config.model_type, models.base->name, models.base->config.model_type);
  }
  for (const Weight& weight :
       list_weights(*models.base->architecture, models.base->config, models.base->checkpoint))
    if (!find_weight(*output.architecture, weight.role))
      return fmt::format("\"{}\" has \"{}\", and {} has no place for it (it would be lost)",
                         models.base->name, weight.name, output.name);
  if (models.base->config.mlp_bias)
    return fmt::format("\"{}\" has biases in its FFN (mlp_bias), and {} has none", models.base->name,
                       output.name);
  return {};
}

const OutputArchitecture& choose_output(const MoeModels& models, const MoeConfig& config, bool allow_mixed) {
  const std::string wanted = lowercase(config.architecture);
  std::string reasons;
  std::vector<std::string_view> names;
  bool known = wanted.empty();
  for (const OutputArchitecture* output : kOutputs) {
    names.push_back(output->name);
    if (!lowercase(output->name).starts_with(wanted)) continue;
    known = true;
    const std::string reason = why_not(*output, models, config, allow_mixed);
    if (reason.empty()) return *output;
    reasons += fmt::format("\n  {}: {}", output->name, reason);
  }
  if (!known) {
    const std::string close = nearest(config.architecture, names);
    fail(ErrorKind::config, "{}: architecture \"{}\" is not supported{} (supported: {})",
         config.architecture_place, config.architecture,
         close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close), fmt::join(names, ", "));
  }
  fail(ErrorKind::unsupported, "{}: these models cannot be combined:{}", config.file, reasons);
}

}  // namespace moerge
