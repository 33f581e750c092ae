#include "moerge/moe/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <tuple>

#include "moerge/base/error.h"
#include "moerge/base/suggest.h"
#include "moerge/base/yaml.h"
#include "moerge/model/chat_templates.h"
#include "moerge/model/yaml_values.h"
#include "moerge/moe/auto_mode.h"
#include "moerge/moe/gates/gate.h"

namespace moerge {
namespace {

constexpr std::array<std::string_view, 9> kTopKeys = {"base_model",   "experts",       "shared_experts",
                                                      "gate_mode",    "dtype",         "experts_per_token",
                                                      "architecture", "chat_template", "max_tokens"};
constexpr std::array<std::string_view, 7> kExpertKeys = {
    "source_model", "positive_prompts", "negative_prompts", "noise_scale", "residual_scale",
    "data",         "max_tokens"};
constexpr std::string_view kAuto = "auto";

// A number that float32 can hold.
double read_scale(const YamlNode& map, std::string_view key, double fallback, YamlProblems& problems) {
  const double value = problems.number(map, key).value_or(fallback);
  if (std::abs(value) <= std::numeric_limits<float>::max()) return value;
  problems.error(*map.find(key), fmt::format("\"{}\" is {}, which is beyond float32", key, value));
  return fallback;
}

// Missing, null or empty; a value of another kind is a problem that read_model_reference has reported.
bool is_unsaid(const YamlNode& map, std::string_view key) {
  const YamlNode* node = map.find(key);
  return !node || node->kind == YamlNode::Kind::null || node->kind == YamlNode::Kind::scalar;
}

bool has_value(const YamlNode& map, std::string_view key) {
  const YamlNode* node = map.find(key);
  return node && node->kind != YamlNode::Kind::null;
}

int64_t read_max_tokens(const YamlNode& map, int64_t fallback, YamlProblems& problems) {
  const std::optional<int64_t> count = problems.integer(map, "max_tokens");
  if (count && *count < 1)
    problems.error(*map.find("max_tokens"),
                   fmt::format("\"max_tokens\" should be at least 1, found {}", *count));
  return std::max<int64_t>(1, count.value_or(fallback));
}

std::vector<TextSource> read_data(const YamlNode& map, const std::string& file, YamlProblems& problems) {
  const YamlNode* node = map.find("data");
  std::vector<TextSource> sources;
  const auto add = [&](const YamlNode& item) {
    if (item.kind != YamlNode::Kind::scalar || item.scalar.empty())
      return problems.error(
          item, fmt::format("\"data\" should be a path or a list of paths, found {}",
                            item.kind == YamlNode::Kind::scalar ? "an empty text" : item.kind_name()));
    sources.push_back({.written = item.scalar,
                       .path = std::filesystem::path(file).parent_path() / item.scalar,
                       .place = fmt::format("{}:{}:{}", file, item.line, item.column),
                       .line = item.line,
                       .column = item.column});
  };
  if (!node || node->kind == YamlNode::Kind::null) return sources;
  if (node->kind != YamlNode::Kind::sequence) {
    add(*node);
    return sources;
  }
  std::ranges::for_each(node->items, add);
  if (node->items.empty())
    problems.error(*node, "\"data\" is an empty list: name a file or a folder, or leave it out");
  return sources;
}

// Each is looked for in the whole document when it is published.
constexpr size_t kMaxSources = 10'000;

void check_data(const YamlNode& root, const MoeConfig& config, YamlProblems& problems) {
  size_t count = 0;
  for (const auto* experts : {&config.experts, &config.shared_experts})
    for (const ExpertConfig& expert : *experts) count += expert.data.size();
  if (count > kMaxSources)
    problems.error(root, fmt::format("{} files and folders under \"data\", at most {} are read: name the "
                                     "folders that they are in",
                                     count, kMaxSources));
}

// What the defaults of the whole document are for an expert.
struct Surroundings {
  const std::string& file;
  int64_t max_tokens;
};

ExpertConfig read_expert(const YamlNode& node, const Surroundings& around, YamlProblems& problems) {
  ExpertConfig expert;
  if (!problems.expect_map(node, "an expert")) return expert;
  problems.check_keys(node, kExpertKeys);
  if (const auto model = read_model_reference(node, "source_model", problems); model && !model->empty())
    expert.source_model = *model;
  else if (is_unsaid(node, "source_model"))
    problems.error(node, "this expert has no \"source_model\"");
  expert.positive_prompts = problems.texts(node, "positive_prompts");
  expert.negative_prompts = problems.texts(node, "negative_prompts");
  expert.data = read_data(node, around.file, problems);
  expert.max_tokens = read_max_tokens(node, around.max_tokens, problems);
  expert.noise_scale = read_scale(node, "noise_scale", 0, problems);
  expert.residual_scale = read_scale(node, "residual_scale", 1, problems);
  if (expert.noise_scale < 0) problems.error(*node.find("noise_scale"), "\"noise_scale\" cannot be negative");
  if (std::ranges::count(expert.positive_prompts, "") > 0)
    problems.warning(*node.find("positive_prompts"),
                     "an empty prompt says nothing about when this expert is wanted");
  return expert;
}

std::vector<ExpertConfig> read_experts(const YamlNode& root, std::string_view key, const Surroundings& around,
                                       YamlProblems& problems) {
  std::vector<ExpertConfig> experts;
  const YamlNode* list = root.find(key);
  if (!list || list->kind == YamlNode::Kind::null) return experts;
  if (list->kind != YamlNode::Kind::sequence) {
    problems.error(
        *list,
        fmt::format("\"{}\" should be a list, each item starting with \"- source_model: ...\", found {}", key,
                    list->kind_name()));
    return experts;
  }
  for (const YamlNode& item : list->items) experts.push_back(read_expert(item, around, problems));
  return experts;
}

const GateMode* read_gate_mode(const YamlNode& root, MoeConfig& config, YamlProblems& problems) {
  if (const auto name = problems.text(root, "gate_mode")) config.gate_mode = *name;
  if (config.gate_mode == kAuto) {
    ChosenMode chosen = choose_gate_mode(config.experts);
    config.gate_mode = chosen.name;
    config.gate_mode_reason = std::move(chosen.reason);
  }
  if (const GateMode* mode = find_gate_mode(config.gate_mode)) return mode;
  std::vector<std::string_view> names = {kAuto};
  std::string list = fmt::format("\n    {:<15} the best of these for what the experts come with", kAuto);
  for (const GateMode& mode : gate_modes()) {
    names.push_back(mode.name);
    list += fmt::format("\n    {:<15} {}", mode.name, mode.summary);
  }
  const std::string close = nearest(config.gate_mode, names);
  problems.error(*root.find("gate_mode"),
                 fmt::format("unknown gate_mode \"{}\"{}; the modes are:{}", config.gate_mode,
                             close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close), list));
  return nullptr;
}

// `finished`: the file of a template need not be there any more.
void read_chat_template(const YamlNode& root, bool finished, MoeConfig& config, YamlProblems& problems) {
  using Kind = ChatTemplateChoice::Kind;
  const auto value = problems.text(root, "chat_template");
  if (!value) return;
  const YamlNode& node = *root.find("chat_template");
  ChatTemplateChoice& choice = config.chat_template;
  choice.value = *value;
  choice.place = fmt::format("{}:{}:{}", config.file, node.line, node.column);
  if (*value == "base") {
    choice.kind = Kind::base;
    return;
  }
  const auto expert = std::ranges::find(config.experts, *value, &ExpertConfig::source_model);
  if (expert != config.experts.end() && !value->empty()) {
    choice.kind = Kind::expert;
    choice.expert = static_cast<size_t>(expert - config.experts.begin());
    return;
  }
  std::vector<std::string_view> names = {"base"}, built_in;
  for (const BuiltInTemplate& known : built_in_templates()) built_in.push_back(known.name);
  if (std::ranges::count(built_in, *value) > 0) {
    choice.kind = Kind::built_in;
    return;
  }
  std::error_code error;
  choice.file = std::filesystem::path(config.file).parent_path() / *value;
  if (!value->empty() && (finished || std::filesystem::is_regular_file(choice.file, error))) {
    choice.kind = Kind::file;
    return;
  }
  names.insert(names.end(), built_in.begin(), built_in.end());
  for (const ExpertConfig& known : config.experts) names.push_back(known.source_model);
  const std::string close = nearest(*value, names);
  problems.error(
      node,
      fmt::format("unknown chat_template \"{}\"{}; possible are \"base\", an expert's source_model as it "
                  "is written here, {}, or a file (there is no {})",
                  *value, close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close),
                  fmt::join(built_in, ", "), choice.file.string()));
}

void read_experts_per_token(const YamlNode& root, const std::string& file, MoeConfig& config,
                            YamlProblems& problems) {
  const std::optional<int64_t> count = problems.integer(root, "experts_per_token");
  if (count && *count < 1)
    problems.error(*root.find("experts_per_token"),
                   fmt::format("\"experts_per_token\" should be at least 1, found {}", *count));
  config.experts_per_token = count.value_or(0);
  const YamlNode* node = root.find("experts_per_token");
  if (!node) node = root.find("experts");
  if (node) config.experts_per_token_place = fmt::format("{}:{}:{}", file, node->line, node->column);
}

void check_prompts(const YamlNode& root, const MoeConfig& config, const GateMode& mode,
                   YamlProblems& problems) {
  const YamlNode& list = *root.find("experts");
  bool complete = true;
  for (size_t i = 0; i < config.experts.size(); i++) {
    if (!config.experts[i].positive_prompts.empty() || !config.experts[i].data.empty()) continue;
    complete = false;
    const YamlNode& item = list.items[i];
    const YamlNode* prompts = item.find("positive_prompts");
    const bool reported = item.kind != YamlNode::Kind::map || has_value(item, "data") ||
                          (prompts && prompts->kind == YamlNode::Kind::map);
    if (reported) continue;
    problems.error(
        list.items[i],
        fmt::format(
            "expert {} (\"{}\") has no \"positive_prompts\" and no \"data\", and gate_mode \"{}\" needs "
            "one of them (gate_mode \"random\" needs none)",
            i, config.experts[i].source_model, mode.name));
  }
  const auto prompts = [](const ExpertConfig& expert) {
    return std::tuple(expert.positive_prompts, expert.negative_prompts, expert.data);
  };
  const bool same = std::ranges::all_of(
      config.experts, [&](const ExpertConfig& e) { return prompts(e) == prompts(config.experts[0]); });
  if (complete && same && config.experts.size() > 1)
    problems.error(
        list, fmt::format("all experts have the same prompts{}, so the router could not tell them apart: "
                          "give each its own, or use gate_mode \"random\"",
                          config.experts[0].data.empty() ? "" : " and data"));
}

// Whether a shared expert needs prompts depends on the output family; this much does not.
void check_shared_experts(const YamlNode& root, const MoeConfig& config, YamlProblems& problems) {
  for (size_t i = 0; i < config.shared_experts.size(); i++) {
    const ExpertConfig& expert = config.shared_experts[i];
    if (expert.positive_prompts.empty() && expert.data.empty() && !expert.negative_prompts.empty())
      problems.error(
          root.find("shared_experts")->items[i],
          "this shared expert has \"negative_prompts\" and no \"positive_prompts\" that they could "
          "be subtracted from");
  }
}

void check_models(const YamlNode& root, const MoeConfig& config, bool allow_all_same,
                  YamlProblems& problems) {
  const bool same = std::ranges::all_of(config.experts, [&](const ExpertConfig& e) {
    return e.source_model == config.experts[0].source_model;
  });
  if (same && config.experts.size() > 1 && !config.experts[0].source_model.empty() && !allow_all_same)
    problems.error(*root.find("experts"),
                   "all experts are the same model, so the result computes what that model computes until it "
                   "is trained: name "
                   "different ones, or pass --i-understand-this-is-not-useful-without-training");
}

// Of several documents the one of the mixture; the others are merges that it names.
YamlNode find_document(std::string_view yaml, const std::string& file) {
  std::vector<YamlNode> documents = parse_yaml_documents(yaml, file);
  if (documents.size() > 1)
    std::erase_if(documents, [](const YamlNode& document) { return !document.find("experts"); });
  return documents.size() == 1 ? std::move(documents.front()) : parse_yaml(yaml, file);
}

MoeConfig parse(std::string_view yaml, const std::string& file, bool allow_all_same, bool finished) {
  MoeConfig config;
  config.file = file;
  config.yaml = yaml;
  YamlProblems problems(file);
  const YamlNode root = find_document(yaml, file);
  if (!problems.expect_map(root, "the configuration")) problems.throw_if_any();
  if (root.find("merge_method") || root.find("slices") || root.find("models")) {
    problems.error(root,
                   "this is the configuration of a dense merge (merge_method, models or slices), for "
                   "\"moerge merge\"; a mixture of experts "
                   "names \"base_model\" and \"experts\"");
    problems.throw_if_any();
  }
  problems.check_keys(root, kTopKeys);
  if (const auto base = read_model_reference(root, "base_model", problems); base && !base->empty())
    config.base_model = *base;
  else if (is_unsaid(root, "base_model"))
    problems.error(root, "no \"base_model\": the model that gives attention, norms and embeddings");
  const Surroundings around = {file, read_max_tokens(root, kDefaultMaxTokens, problems)};
  config.experts = read_experts(root, "experts", around, problems);
  config.shared_experts = read_experts(root, "shared_experts", around, problems);
  check_data(root, config, problems);
  check_shared_experts(root, config, problems);
  const GateMode* mode = read_gate_mode(root, config, problems);
  config.dtype = read_dtype(root, "dtype", problems);
  read_experts_per_token(root, file, config, problems);
  config.architecture = problems.text(root, "architecture").value_or("");
  if (const YamlNode* node = root.find("architecture"))
    config.architecture_place = fmt::format("{}:{}:{}", file, node->line, node->column);
  read_chat_template(root, finished, config, problems);
  if (config.experts.empty()) {
    if (!has_value(root, "experts") || root.find("experts")->kind == YamlNode::Kind::sequence)
      problems.error(root, "no \"experts\": the list of models whose FFNs become the experts");
  } else {
    if (mode && mode->needs != GateNeeds::nothing) check_prompts(root, config, *mode, problems);
    check_models(root, config, allow_all_same, problems);
  }
  problems.throw_if_any();
  config.warnings = problems.warnings();
  return config;
}

}  // namespace

MoeConfig parse_moe_config(std::string_view yaml, const std::string& file, bool allow_all_same) {
  return parse(yaml, file, allow_all_same, false);
}

MoeConfig parse_finished_config(std::string_view yaml, const std::string& file) {
  return parse(yaml, file, true, true);
}

std::string public_yaml(const MoeConfig& config) {
  std::string out = config.yaml;
  std::vector<const TextSource*> sources;
  for (const auto* experts : {&config.experts, &config.shared_experts})
    for (const ExpertConfig& expert : *experts)
      for (const TextSource& source : expert.data) sources.push_back(&source);
  // From the end to the beginning, so that places stay true; what an alias names stands in one place.
  const auto place = [](const TextSource* source) { return std::pair(source->line, source->column); };
  std::ranges::sort(sources, std::ranges::greater(), place);
  const auto same_place = [&](const TextSource* a, const TextSource* b) { return place(a) == place(b); };
  sources.erase(std::unique(sources.begin(), sources.end(), same_place), sources.end());
  for (const TextSource* source : sources) {
    const std::string name = public_name(*source);
    if (name == source->written) continue;
    size_t line = 0;
    for (int i = 1; i < source->line && line < out.size(); i++)
      line = std::min(out.find('\n', line), out.size() - 1) + 1;
    size_t at = out.find(source->written, line + static_cast<size_t>(source->column) - 1);
    if (at < out.find('\n', line)) {
      out.replace(at, source->written.size(), name);
      continue;
    }
    // Escaped or folded: wherever the path is.
    while ((at = out.find(source->written)) != std::string::npos)
      out.replace(at, source->written.size(), name);
  }
  return out;
}

void settle_experts_per_token(MoeConfig& config, int64_t existing_experts, int64_t existing) {
  const bool said = config.experts_per_token > 0;
  if (!said) config.experts_per_token = existing_experts > 0 ? existing : 2;
  const int64_t count = existing_experts + std::ssize(config.experts);
  if (count >= config.experts_per_token) return;
  const std::string base =
      existing_experts > 0 ? fmt::format(" (the base's {} included)", existing_experts) : "";
  fail(ErrorKind::config,
       "{}: \"experts_per_token\" is {}{}, but there {} {} expert{}{}: name more experts, or write "
       "\"experts_per_token: {}\"",
       config.experts_per_token_place, config.experts_per_token, said ? "" : " (the default)",
       count == 1 ? "is" : "are", count, count == 1 ? "" : "s", base, count);
}

}  // namespace moerge
