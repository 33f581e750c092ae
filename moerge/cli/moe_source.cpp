#include "moerge/cli/moe_source.h"

#include <fmt/format.h>

#include <algorithm>

#include "moerge/base/file.h"
#include "moerge/engine/chat_format.h"
#include "moerge/moe/forecast.h"
#include "moerge/moe/planned_model.h"

namespace moerge {
namespace {

// Runs what a plan describes.
class PlannedDecoder final : public PromptEncoder {
 public:
  PlannedDecoder(const MoePlan& moe, DecoderOptions options)
      : planned_(moe), decoder_(planned_.model(), std::move(options)) {}
  void encode(std::span<const TokenSequence> sequences, const PassTaps& taps) override {
    decoder_.encode(sequences, taps);
  }

 private:
  PlannedModel planned_;
  StreamingDecoder decoder_;
};

ChatFormatter run_chat_template(const std::string& text, const std::string& bos, const std::string& eos) {
  const auto format = std::make_shared<ChatFormat>(text, bos, eos, "this conversation");
  return [format](const std::vector<ChatMessage>& messages) { return format->render(messages); };
}

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

PlanOptions plan_options(const SourceOptions& options, Layout layout) {
  return {.layout = layout,
          .allow_mixed = options.allow_crimes,
          .seed = static_cast<uint64_t>(options.seed),
          .make_chat_formatter = run_chat_template};
}

MoePlan open_yaml(const std::filesystem::path& yaml, const SourceOptions& options) {
  const std::string text = read_file(yaml, kMaxMoeConfig);
  const Environment environment = environment_of(options);
  const Resolve resolve = [&](const std::string& reference) {
    return resolve_model(reference, yaml.parent_path(), environment);
  };
  return open_moe(parse_moe_config(text, yaml.string(), options.allow_all_same), resolve);
}

MoePlan plan_yaml(const std::filesystem::path& yaml, const SourceOptions& options, Layout layout) {
  MoePlan moe = open_yaml(yaml, options);
  complete_plan(moe, plan_options(options, layout));
  return moe;
}

std::unique_ptr<PromptEncoder> make_encoder(MoePlan& moe, const SourceOptions& options, int threads) {
  moe.gate_input.threads = decoder_options(options, threads).threads;
  switch (moe.gate_mode->needs) {
    case GateNeeds::base_pass:
      return std::make_unique<StreamingDecoder>(*moe.models.base, decoder_options(options, threads));
    case GateNeeds::mixture_pass:
      return std::make_unique<PlannedDecoder>(moe, decoder_options(options, threads));
    case GateNeeds::nothing:
    case GateNeeds::embeddings:
      break;
  }
  return nullptr;
}

void report_routers(const MoePlan& moe, Reporter& reporter) {
  if (moe.gate_mode->needs == GateNeeds::nothing) return;
  const int64_t kept = moe.models.kept_experts();
  for (const Collision& collision : find_collisions(moe.gates->get().table, std::ssize(moe.models.experts)))
    reporter.warning(fmt::format(
        "the router rows of experts {} (\"{}\") and {} (\"{}\") nearly coincide in {} (cosine up to "
        "{:.3f}): their prompts are too similar, and one of them will hardly be used",
        kept + collision.first, moe.models.experts[static_cast<size_t>(collision.first)]->name,
        kept + collision.second, moe.models.experts[static_cast<size_t>(collision.second)]->name,
        std::ssize(collision.layers) == moe.gate_input.layers
            ? "every layer"
            : fmt::format("layer{} {}", collision.layers.size() == 1 ? "" : "s",
                          layer_ranges(collision.layers)),
        collision.cosine));
  if (const std::string forecast = forecast_text(moe); !forecast.empty()) reporter.info(forecast);
}

}  // namespace moerge
