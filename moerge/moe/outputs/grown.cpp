#include "moerge/moe/outputs/grown.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "moerge/base/error.h"
#include "moerge/model/architectures/list.h"

namespace moerge {
namespace {

// How transformers 5 spells it in several families.
constexpr const char* kExpertCount = "num_local_experts";

// The base's config.json with another number of experts; the type of the weights where the YAML asks for one.
Json make_config(const MoeModels& models, const MoeConfig& config, DType dtype) {
  const ModelConfig& base = models.base->config;
  Json out = base.raw;
  const char* const key = models.base->architecture->mixture->keys.experts;
  const int64_t experts = models.kept_experts() + std::ssize(models.experts);
  const bool other_key = out.contains(kExpertCount);
  if (other_key) out[kExpertCount] = experts;
  if (!other_key || out.contains(key)) out[key] = experts;
  out["num_experts_per_tok"] = config.experts_per_token;
  if (base.dtype != dtype)
    out[out.contains("dtype") && !out.contains("torch_dtype") ? "dtype" : "torch_dtype"] =
        std::string(info(dtype).torch);
  return out;
}

// Dense families whose FFN is an expert's.
constexpr std::string_view kLlamas[] = {"llama", "mistral"};
constexpr std::string_view kQwen2s[] = {"qwen2"};
constexpr std::string_view kQwen3s[] = {"qwen3"};

const std::array kGrown = {
    OutputArchitecture{
        .name = "Mixtral", .architecture = &kMixtral, .inputs = kLlamas, .make_config = make_config},
    OutputArchitecture{
        .name = "Qwen MoE", .architecture = &kQwen2Moe, .inputs = kQwen2s, .make_config = make_config},
    OutputArchitecture{
        .name = "Qwen3 MoE", .architecture = &kQwen3Moe, .inputs = kQwen3s, .make_config = make_config},
    OutputArchitecture{.name = "DeepSeek MoE",
                       .architecture = &kDeepseek,
                       .inputs = kLlamas,
                       .fused_layout = false,
                       .remote_code = true,
                       .make_config = make_config},
};

std::string why_not_these(const OutputArchitecture& output, const MoeModels& models, const MoeConfig& config,
                          bool allow_mixed) {
  const Model& base = *models.base;
  if (!config.shared_experts.empty())
    return fmt::format("\"shared_experts\" cannot be added to \"{}\", a mixture {}: leave them out",
                       base.name,
                       base.config.shared_ffn > 0 ? "that has a shared expert already"
                                                  : "that was made without shared experts");
  for (const Model* model : models.experts)
    if (std::ranges::find(output.inputs, model->config.model_type) == output.inputs.end() && !allow_mixed)
      return fmt::format(
          "\"{}\" is a {} model, and the experts of \"{}\", a {} model, are FFNs of {} models; pass "
          "--allow-crimes to combine them all the same",
          model->name, model->config.model_type, base.name, base.config.model_type,
          fmt::join(output.inputs, " or "));
  for (const Model* model : models.experts)
    if (model->config.mlp_bias)
      return fmt::format("\"{}\" has biases in its FFN (mlp_bias), and {} has none", model->name,
                         output.name);
  return {};
}

const OutputArchitecture* find_grown(const Model& base) {
  const auto output = std::ranges::find(kGrown, base.architecture, &OutputArchitecture::architecture);
  return output == kGrown.end() ? nullptr : &*output;
}

std::string no_growth(const Model& base) {
  return fmt::format("experts cannot be added to a {} model", base.config.model_type);
}

}  // namespace

std::string why_not_grown(const OutputArchitecture& output, const MoeModels& models, const MoeConfig& config,
                          bool allow_mixed) {
  const Model& base = *models.base;
  const OutputArchitecture* own = find_grown(base);
  if (!own) return no_growth(base);
  if (own->name != output.name)
    return fmt::format("the base \"{}\" is a mixture of the family {}, which stays what it is", base.name,
                       own->name);
  return why_not_these(*own, models, config, allow_mixed);
}

const OutputArchitecture& choose_grown_output(const MoeModels& models, const MoeConfig& config,
                                              bool allow_mixed) {
  const OutputArchitecture* output = find_grown(*models.base);
  if (!output) fail(ErrorKind::unsupported, "{}: {}", config.file, no_growth(*models.base));
  if (!matches_name(*output, config.architecture))
    fail(ErrorKind::config,
         "{}: architecture \"{}\" is wanted, and the base \"{}\" is a mixture of the family {}, which stays "
         "what it is",
         config.architecture_place, config.architecture, models.base->name, output->name);
  if (const std::string reason = why_not_these(*output, models, config, allow_mixed); !reason.empty())
    fail(ErrorKind::unsupported, "{}: {}", config.file, reason);
  return *output;
}

}  // namespace moerge
