#include "moerge/moe/planner.h"

#include <fmt/format.h>

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/model/mixture.h"
#include "moerge/model/tokenizer_files.h"
#include "moerge/moe/check.h"
#include "moerge/moe/expert_texts.h"
#include "moerge/moe/grow.h"
#include "moerge/moe/steps.h"

namespace moerge {
namespace {

// Opens every model that the configuration names; all that cannot be opened are reported together.
void open_models(MoePlan& moe, const Resolve& resolve, const OpenOther& other) {
  std::vector<std::string> problems;
  ErrorKind kind = ErrorKind::input;
  const auto note = [&](ErrorKind found, const std::string& message) {
    if (exit_code(found) > exit_code(kind))
      kind = found;  // what the user must change outweighs a damaged file
    if (std::ranges::find(problems, message) == problems.end()) problems.push_back(message);
  };
  const auto open = [&](const std::string& reference) -> const Model* {
    try {
      if (const auto known = moe.made.find(reference); known != moe.made.end())
        return known->second.model.get();
      if (std::optional<OpenedModel> made = other ? other(reference) : std::nullopt) {
        const Model& model = *(moe.made[reference] = std::move(*made)).model;
        // Says which families there are.
        if (!model.architecture) parse_model_config(model.config.raw, fmt::format("\"{}\"", reference));
        return &model;
      }
      const ModelLocation location = canonical_location(resolve(reference));
      std::unique_ptr<Model>& model = moe.opened[location];
      if (!model) model = std::make_unique<Model>(reference, location);
      return model.get();
    } catch (const Error& error) {
      note(error.kind(), error.message());
    } catch (const std::filesystem::filesystem_error& error) {
      note(ErrorKind::io, fmt::format("model \"{}\": {}", reference, error.code().message()));
    }
    return nullptr;
  };
  moe.models.base = open(moe.config.base_model);
  for (const ExpertConfig& expert : moe.config.experts)
    moe.models.experts.push_back(open(expert.source_model));
  for (const ExpertConfig& expert : moe.config.shared_experts)
    moe.models.shared_experts.push_back(open(expert.source_model));
  if (!problems.empty()) throw Error(kind, fmt::format("{}", fmt::join(problems, "\n")));
}

void check_fit(MoePlan& moe) {
  Findings findings = check_models_fit(moe.models);
  std::ranges::move(findings.warnings, std::back_inserter(moe.warnings));
  if (findings.damaged.empty() && findings.misfits.empty()) return;
  const ErrorKind kind = findings.misfits.empty() ? ErrorKind::input : ErrorKind::unsupported;
  std::ranges::move(findings.misfits, std::back_inserter(findings.damaged));
  throw Error(kind, fmt::format("{}", fmt::join(findings.damaged, "\n")));
}

TokenSequence encode_prompt(const Tokenizer& tokenizer, const std::string& text, const std::string& whose) {
  try {
    return tokenizer.encode(text);
  } catch (const Error& error) {
    fail(error.kind(), "a prompt of {}: {}", whose, error.message());
  }
}

// Token ids of every prompt, as mergekit makes them: the beginning-of-sequence token's text in front, nothing
// added.
void tokenise_prompts(MoePlan& moe, const Tokenizer& tokenizer) {
  const std::string bos = tokenizer.bos_token().value_or("");
  const int64_t vocab = moe.models.base->config.vocab;
  std::vector<std::string> problems;
  const auto add_expert = [&](const ExpertConfig& expert, const std::string& whose) {
    ExpertTokens& tokens = moe.gate_input.experts.emplace_back();
    tokens.model = expert.source_model;
    const auto encode = [&](const std::vector<std::string>& prompts, std::vector<TokenSequence>& out) {
      for (const std::string& prompt : prompts) {
        TokenSequence ids = encode_prompt(tokenizer, bos + prompt, whose);
        const auto unknown = std::ranges::find_if(ids, [&](int32_t id) { return id >= vocab; });
        if (ids.empty())
          problems.push_back(fmt::format("{}: the prompt \"{}\" has no tokens", whose, prompt));
        else if (unknown != ids.end())
          problems.push_back(
              fmt::format("{}: the prompt \"{}\" has token {}, and the base's embeddings end at {}", whose,
                          prompt, *unknown, vocab - 1));
        moe.prompts++;
        moe.prompt_tokens += std::ssize(ids);
        out.push_back(std::move(ids));
      }
    };
    encode(expert.positive_prompts, tokens.positive);
    encode(expert.negative_prompts, tokens.negative);
  };
  for (size_t e = 0; e < moe.config.experts.size(); e++)
    add_expert(moe.config.experts[e], fmt::format("expert {}", e));
  if (moe.output->routes_shared_experts())
    for (const ExpertConfig& expert : moe.config.shared_experts) add_expert(expert, "the shared expert");
  if (!problems.empty()) throw Error(ErrorKind::config, fmt::format("{}", fmt::join(problems, "\n")));
}

// Experts read the base's tokens; one that was trained on others deserves a word.
void compare_tokenizers(MoePlan& moe, const Tokenizer& base) {
  for (const auto& [location, model] : moe.opened) {
    if (model.get() == moe.models.base || !has_tokenizer(*model) ||
        same_tokenizer_file(*model, *moe.models.base))
      continue;
    try {
      const Tokenizer::Difference difference = base.difference(read_tokenizer(*model));
      if (difference.count > 0)
        moe.warnings.push_back(
            fmt::format("the tokenizers of the base and of \"{}\" differ in {} token{} (such as \"{}\"); the "
                        "result has the base's",
                        model->name, difference.count, difference.count == 1 ? "" : "s", difference.example));
    } catch (const Error& error) {  // the result does not need it
      moe.warnings.push_back(fmt::format("the tokenizer of \"{}\" cannot be compared with the base's: {}",
                                         model->name, error.message()));
    }
  }
}

// A tokenizer.model need not be one that this program reads where it does not have to: Llama 3's is none of
// SentencePiece's.
bool only_copied(const Model& base) {
  return !base.gguf() && !std::filesystem::exists(base.path / "tokenizer.json");
}

// Why these models cannot be run as the mixture that they become; empty when they can.
std::string why_no_pass(const MoePlan& moe) {
  if (moe.models.kept_experts() > 0)
    return fmt::format("there is no text for the {} that \"{}\" has already",
                       count_experts(moe.models.kept_experts()), moe.models.base->name);
  if (!find_architecture(moe.output->architecture->model_type))
    return fmt::format("moerge cannot run {} before it is written", moe.output->name);
  return "";
}

// What a mode cannot do with these models and prompts.
void check_gate_mode(MoePlan& moe) {
  if (moe.gate_mode->needs != GateNeeds::mixture_pass) return;
  if (const std::string why_not = why_no_pass(moe); !why_not.empty()) {
    if (moe.config.gate_mode_reason.empty())
      fail(ErrorKind::config,
           "{}: gate_mode \"{}\" fits the rows of all experts together, and {}: use gate_mode "
           "\"router_input\"",
           moe.config.file, moe.gate_mode->name, why_not);
    moe.config.gate_mode_reason += fmt::format(", but {}, so it is not {}", why_not, moe.gate_mode->name);
    moe.config.gate_mode = "router_input";
    moe.gate_mode = find_gate_mode(moe.config.gate_mode);
    return;
  }
  const auto negative = std::ranges::find_if(
      moe.config.experts, [](const ExpertConfig& expert) { return !expert.negative_prompts.empty(); });
  if (negative != moe.config.experts.end())
    moe.warnings.push_back(fmt::format(
        "gate_mode {} makes no use of \"negative_prompts\": every expert is set against the texts of "
        "the others",
        moe.gate_mode->name));
}

void prepare_gates(MoePlan& moe, const PlanOptions& options) {
  const Model& base = *moe.models.base;
  moe.gate_input.layers = base.config.layers;
  moe.gate_input.hidden = base.config.hidden;
  moe.gate_input.base = base.name;
  moe.gate_input.embedding = &base.tensor(Role::embedding);
  moe.gate_input.seed = options.seed;
  moe.gate_input.routed = std::ssize(moe.models.experts);
  moe.gate_input.kept = moe.models.kept_experts();
  moe.gate_input.experts_per_token = moe.config.experts_per_token;
  for (int64_t layer = 0; layer < base.config.layers; layer++)
    moe.gate_input.stream_names.push_back(moe.output->weight(Role::router, layer));
  if (moe.gate_mode->needs == GateNeeds::nothing) {
    const size_t shared = moe.output->routes_shared_experts() ? moe.config.shared_experts.size() : 0;
    moe.gate_input.experts.resize(moe.config.experts.size() + shared);
    moe.expert_data_tokens.resize(moe.gate_input.experts.size());
    if (!has_tokenizer(base)) return;
    if (only_copied(base)) {
      try {
        compare_tokenizers(moe, read_tokenizer(base));
      } catch (const Error& error) {
        moe.warnings.push_back(
            fmt::format("the base's tokenizer is copied as it is, but cannot be compared with "
                        "the experts': {}",
                        error.message()));
      }
      return;
    }
  }
  const Tokenizer tokenizer = read_tokenizer(base);
  if (moe.gate_mode->needs != GateNeeds::nothing) {
    tokenise_prompts(moe, tokenizer);
    add_texts(moe, tokenizer, options);
  }
  compare_tokenizers(moe, tokenizer);
}

// Which layout is written: what was asked for, where the family knows it.
Layout settle_layout(const MoePlan& moe, Layout wanted) {
  if (wanted == Layout::fused && !moe.output->fused_layout)
    fail(
        ErrorKind::unsupported,
        "--layout fused: no program reads {} that way; leave it out, and every expert has tensors of its own",
        moe.output->name);
  return moe.output->architecture->mixture->always_stacked ? Layout::fused : wanted;
}

// Qwen's mixtures have no windows, or other ones than Qwen's dense models. (A mixture stays what it is.)
void note_lost_window(MoePlan& moe) {
  const ModelConfig& base = moe.models.base->config;
  const auto first = std::ranges::find(base.windowed, true);
  if (first == base.windowed.end() || moe.models.base->is_mixture()) return;
  moe.warnings.push_back(
      fmt::format("\"{}\" lets its layers from {} on see only the last {} tokens; in the result, as in "
                  "mergekit's, every layer sees all of them",
                  moe.models.base->name, first - base.windowed.begin(), *base.sliding_window));
}

void count_parameters(MoePlan& moe) {
  const ModelConfig& base = moe.models.base->config;
  for (const Step& step : moe.plan.steps) moe.total_parameters += step.out.elements();
  const int64_t experts = moe.models.kept_experts() + std::ssize(moe.models.experts);
  const int64_t idle = experts - moe.config.experts_per_token;
  moe.active_parameters = moe.total_parameters - idle * 3 * base.ffn * base.hidden * base.layers;
}

}  // namespace

MoePlan open_moe(MoeConfig config, const Resolve& resolve, const OpenOther& other) {
  MoePlan moe;
  moe.config = std::move(config);
  moe.warnings = moe.config.warnings;
  moe.gate_mode = find_gate_mode(moe.config.gate_mode);
  open_models(moe, resolve, other);
  settle_experts_per_token(moe.config, moe.models.kept_experts(), moe.models.base->config.experts_per_token);
  check_fit(moe);
  return moe;
}

void complete_plan(MoePlan& moe, const PlanOptions& options) {
  moe.output = &choose_output(moe.models, moe.config, options.allow_mixed);
  moe.layout = settle_layout(moe, options.layout);
  note_lost_window(moe);
  const ModelConfig& base = moe.models.base->config;
  // mergekit's rule: the YAML's dtype, else what the base's config.json states, else how its weights are
  // stored.
  moe.dtype =
      moe.config.dtype.value_or(base.dtype.value_or(moe.models.base->tensor(Role::embedding).spec.dtype));
  moe.chat_template = choose_chat_template(moe.config, moe.models, moe.warnings);
  check_gate_mode(moe);
  prepare_gates(moe, options);
  moe.plan.seed = options.seed;
  moe.plan.steps = make_steps(moe, moe.layout);
  moe.model_config = moe.output->make_config(moe.models, moe.config, moe.dtype);
  count_parameters(moe);
}

MoePlan plan_moe(MoeConfig config, const Resolve& resolve, const PlanOptions& options) {
  MoePlan moe = open_moe(std::move(config), resolve);
  complete_plan(moe, options);
  return moe;
}

}  // namespace moerge
