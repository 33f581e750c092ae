#pragma once
// From a configuration to a plan: opens the models, checks them, tokenises the prompts, and settles every
// output tensor. Reads headers, configurations and tokenizers; no weights.

#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>

#include "moerge/model/model.h"
#include "moerge/moe/chat_template.h"
#include "moerge/moe/config.h"
#include "moerge/moe/gates/gate.h"
#include "moerge/moe/outputs/output.h"
#include "moerge/moe/text_rows.h"
#include "moerge/plan/plan.h"

namespace moerge {

struct PlanOptions {
  Layout layout = Layout::per_expert;
  bool allow_mixed = false;  // --allow-crimes
  uint64_t seed = 0;
  /// Runs chat templates: from a template and the texts of the special tokens (empty: none).
  std::function<ChatFormatter(const std::string& text, const std::string& bos, const std::string& eos)>
      make_chat_formatter = {};
};

/// Where a model reference points; throws config when nowhere.
using Resolve = std::function<ModelLocation(const std::string& reference)>;

/// Opens what a reference means that is on no disk; empty for any other. Null: there is nothing of the kind.
using OpenOther = std::function<std::optional<OpenedModel>(const std::string& reference)>;

/// Part::group of what comes from the base, its own experts included; those of the configuration have their
/// number there, shared experts -2, -3, ...
inline constexpr int64_t kBaseGroup = -1, kFirstSharedGroup = -2;

struct MoePlan {
  MoeConfig config;
  std::map<ModelLocation, std::unique_ptr<Model>> opened;  // each model once
  std::map<std::string, OpenedModel> made;                 // those that are on no disk, by reference
  MoeModels models;
  const OutputArchitecture* output = nullptr;
  const GateMode* gate_mode;
  Layout layout;
  DType dtype;
  GateInput gate_input;  // its encoder is set by whoever builds
  /// The router rows, once they are made; the plan's router steps read them.
  std::shared_ptr<std::shared_future<Gates>> gates = std::make_shared<std::shared_future<Gates>>();
  Plan plan;
  Json model_config;                          // config.json of the output
  std::optional<ChatTemplate> chat_template;  // instead of the base's
  std::vector<std::string> warnings;
  int64_t total_parameters = 0, active_parameters = 0;  // active: used for one token
  int64_t prompts = 0, prompt_tokens = 0;
  int64_t data_sequences = 0, data_tokens = 0;
  std::vector<int64_t> expert_data_tokens;  // as in gate_input.experts
};

/// The models that a configuration names, opened and found to fit; nothing else is settled yet. Throws config
/// or unsupported with every problem found, one a line.
MoePlan open_moe(MoeConfig config, const Resolve& resolve, const OpenOther& other = {});
/// The rest. Throws the same.
void complete_plan(MoePlan& moe, const PlanOptions& options);
/// Both.
MoePlan plan_moe(MoeConfig config, const Resolve& resolve, const PlanOptions& options);

}  // namespace moerge
