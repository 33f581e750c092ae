#include "moerge/cli/moe_source.h"

#include <fmt/format.h>

#include <algorithm>

#include "moerge/base/file.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/cli/merge_source.h"
#include "moerge/engine/chat_format.h"
#include "moerge/moe/forecast.h"
#include "moerge/moe/planned_model.h"
#include "moerge/plan/model_folder.h"

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

MoePlan open_yaml(const std::filesystem::path& yaml, const SourceOptions& options,
                  const std::filesystem::path& out, ModelFetcher& fetcher) {
  const std::string text = read_file(yaml, kMaxMoeConfig);
  std::optional<MergeStages> stages;
  if (parse_yaml_documents(text, yaml.string()).size() > 1) stages.emplace(text, yaml.string());
  const auto open = [&] {
    std::vector<std::string> warnings;
    OpenOther other;
    if (stages)
      other = [&,
               merge = stages->with_stages(open_models_of(yaml.parent_path(), fetcher),
                                           merge_options(options), warnings)](const std::string& reference) {
        return stages->is_stage(reference) ? std::optional(merge(reference)) : std::nullopt;
      };
    MoePlan moe = open_moe(
        parse_moe_config(text, yaml.string(), options.allow_all_same),
        [&](const std::string& reference) { return fetcher.look(reference, yaml.parent_path()); }, other);
    moe.warnings.insert(moe.warnings.begin(), warnings.begin(), warnings.end());
    return moe;
  };
  MoePlan moe = open();
  if (!fetcher.any() || options.fetch == Fetch::headers) return moe;
  complete_plan(moe, plan_options(options, Layout::per_expert));
  const int64_t result = out.empty() ? 0 : needed_space(moe.plan, {});
  if (options.fetch == Fetch::whole) {
    fetcher.fetch_all(out, result);
  } else {
    SourceBytes needed;
    needed.add(moe.plan);
    add_encoder_weights(moe, needed);
    fetcher.fetch_ranges(needed, out, result);
  }
  return open();
}

MoePlan plan_yaml(const std::filesystem::path& yaml, const SourceOptions& options, Layout layout,
                  ModelFetcher& fetcher) {
  MoePlan moe = open_yaml(yaml, options, {}, fetcher);
  complete_plan(moe, plan_options(options, layout));
  return moe;
}

bool is_ffn(Role role) { return role == Role::ffn_gate || role == Role::ffn_up || role == Role::ffn_down; }

// All but the last layer's FFN. (A pass of the planned mixture reads none but those of the plan.)
void add_encoder_weights(const MoePlan& moe, SourceBytes& read) {
  if (moe.gate_mode->needs != GateNeeds::base_pass) return;
  const Model& base = *moe.models.base;
  for (const Weight& weight : list_weights(*base.architecture, base.config, base.checkpoint))
    if (weight.layer >= 0 && (weight.layer + 1 < base.config.layers || !is_ffn(weight.role)))
      read.add(base.checkpoint.at(weight.name));
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
  if (moe.gate_mode->needs == GateNeeds::nothing || !moe.gates->valid()) return;
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
