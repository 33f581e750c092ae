#include "moerge/cli/moe_source.h"

#include <algorithm>

#include "moerge/base/file.h"

namespace moerge {
namespace {

constexpr int64_t kMaxConfig = 1 << 20;

}  // namespace

Environment environment_of(const SourceOptions& options) {
  return [cache = options.cache](const char* name) -> std::optional<std::string> {
    if (!cache.empty() && std::string_view(name) == "HF_HUB_CACHE") return cache;
    return process_environment(name);
  };
}

DecoderOptions decoder_options(const SourceOptions& options, int threads) {
  DecoderOptions out;
  out.threads = std::max(1, threads - 1);
  out.device = options.device == "auto" ? "cpu" : options.device;
  out.weights = options.four_bit    ? WeightType::q4_1
                : options.eight_bit ? WeightType::q8_0
                                    : WeightType::as_stored;
  return out;
}

MoePlan plan_yaml(const std::filesystem::path& yaml, const SourceOptions& options, Layout layout) {
  const std::string text = read_file(yaml, kMaxConfig);
  const Environment environment = environment_of(options);
  const Resolve resolve = [&](const std::string& reference) {
    return resolve_model(reference, yaml.parent_path(), environment);
  };
  return plan_moe(
      parse_moe_config(text, yaml.string(), options.allow_all_same), resolve,
      {.layout = layout, .allow_mixed = options.allow_crimes, .seed = static_cast<uint64_t>(options.seed)});
}

std::unique_ptr<PromptEncoder> make_encoder(const MoePlan& moe, const SourceOptions& options, int threads) {
  if (moe.gate_mode->needs != GateNeeds::hidden_states) return nullptr;
  return std::make_unique<StreamingDecoder>(*moe.models.base, decoder_options(options, threads));
}

}  // namespace moerge
