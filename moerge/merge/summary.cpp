#include "moerge/merge/summary.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "moerge/base/file.h"

namespace moerge {
namespace {

constexpr size_t kMaxSlices = 24;  // that are listed

std::string class_name(const MergePlan& merge) {
  const auto classes = merge.model_config.find("architectures");
  if (classes != merge.model_config.end() && classes->is_array() && !classes->empty() &&
      (*classes)[0].is_string())
    return (*classes)[0].get<std::string>();
  return merge.tokenizer ? merge.tokenizer->config.model_type : "tensors";
}

// "weight 0.3, density 0.5 to 0.9 (mlp: 1)".
std::string settings_text(const ParameterSettings& settings) {
  std::vector<std::string> parts;
  for (const ParameterSetting& setting : settings) {
    std::vector<std::string> values;
    for (const ParameterRule& rule : setting.rules) {
      const std::string points = fmt::format("{:.6g}", fmt::join(rule.points, ", "));
      const std::string value = rule.points.size() == 1 ? points : fmt::format("[{}]", points);
      values.push_back(
          rule.filter.empty() || rule.filter == "*" ? value : fmt::format("{} in {}", value, rule.filter));
    }
    parts.push_back(fmt::format("{} {}", setting.spec->name, fmt::join(values, " else ")));
  }
  return parts.empty() ? "" : fmt::format(" ({})", fmt::join(parts, "; "));
}

std::string source_text(const MergeSource& source, const std::string& base) {
  const std::string layers =
      source.layers ? fmt::format(" layers {} to {}", source.layers->first, source.layers->second - 1) : "";
  return fmt::format("{}{}{}{}", source.model, layers, source.model == base ? ", the base" : "",
                     settings_text(source.parameters));
}

std::string slices_text(const MergePlan& merge) {
  const MergeConfig& config = merge.config;
  std::string out;
  if (config.whole_models) {
    for (const MergeSource& source : config.slices.front().sources)
      out += fmt::format("  model     {}\n", source_text(source, config.base_model));
    return out;
  }
  for (size_t i = 0; i < config.slices.size() && i < kMaxSlices; i++) {
    const MergeSlice& slice = config.slices[i];
    std::vector<std::string> sources;
    for (const MergeSource& source : slice.sources)
      sources.push_back(source_text(source, slice.base_model.empty() ? config.base_model : slice.base_model));
    out += fmt::format("  slice {:<3} {}{}\n", i, fmt::join(sources, " + "), settings_text(slice.parameters));
  }
  if (config.slices.size() > kMaxSlices)
    out += fmt::format("  ...       {} more slices\n", config.slices.size() - kMaxSlices);
  return out;
}

Json settings_json(const ParameterSettings& settings) {
  Json out = Json::object();
  for (const ParameterSetting& setting : settings) {
    Json rules = Json::array();
    for (const ParameterRule& rule : setting.rules)
      rules.push_back({{"filter", rule.filter.empty() ? "*" : rule.filter}, {"points", rule.points}});
    out[std::string(setting.spec->name)] = std::move(rules);
  }
  return out;
}

std::string type_text(const ParameterSpec& spec) {
  switch (spec.type) {
    case ParameterSpec::Type::number:
      return "number";
    case ParameterSpec::Type::integer:
      return "integer";
    case ParameterSpec::Type::flag:
      return "true or false";
  }
  return "";
}

Json default_json(const ParameterSpec& spec) {
  if (!spec.fallback) return nullptr;
  if (spec.type == ParameterSpec::Type::flag) return *spec.fallback != 0;
  return *spec.fallback;
}

std::string models_text(const MergeMethod& method) {
  std::string count = method.max_models == 0 ? fmt::format("{} or more models", method.min_models)
                      : method.max_models == method.min_models
                          ? fmt::format("{} model{}", method.min_models, method.min_models == 1 ? "" : "s")
                          : fmt::format("{} to {} models", method.min_models, method.max_models);
  if (method.base == BaseRole::required) count += ", base_model among them";
  if (method.base == BaseRole::optional) count += ", base_model if wanted";
  return count;
}

}  // namespace

std::string merge_text(const MergePlan& merge, const FolderLayout& layout) {
  std::string out =
      fmt::format("{}: {} of {} models, {}{} parameters, {}\n", class_name(merge), merge.config.method->title,
                  merge.opened.size(), merge.layers > 0 ? fmt::format("{} layers, ", merge.layers) : "",
                  human_count(merge.parameters), info(merge.dtype).torch);
  out += slices_text(merge);
  if (!merge.config.parameters.empty())
    out += fmt::format("  all      {}\n", settings_text(merge.config.parameters));
  if (merge.chat_template)
    out += fmt::format("  chat      template {}\n", merge.config.chat_template.substr(0, 60));
  return out + "  written   " + written_text(merge.plan, layout);
}

Json merge_json(const MergePlan& merge, const FolderLayout& layout) {
  Json slices = Json::array();
  for (const MergeSlice& slice : merge.config.slices) {
    Json sources = Json::array();
    for (const MergeSource& source : slice.sources)
      sources.push_back(
          {{"model", source.model},
           {"folder", merge.opened.at(source.model)->path.string()},
           {"layers", source.layers ? Json{source.layers->first, source.layers->second} : Json()},
           {"parameters", settings_json(source.parameters)}});
    slices.push_back({{"sources", std::move(sources)}, {"parameters", settings_json(slice.parameters)}});
  }
  return {{"architecture", class_name(merge)},
          {"merge_method", std::string(merge.config.method->name)},
          {"base_model", merge.config.base_model.empty() ? Json() : Json(merge.config.base_model)},
          {"dtype", std::string(info(merge.dtype).torch)},
          {"slices", std::move(slices)},
          {"parameters", settings_json(merge.config.parameters)},
          {"layers", merge.layers},
          {"parameter_count", merge.parameters},
          {"tokenizer_of", merge.tokenizer ? Json(merge.tokenizer->name) : Json()},
          {"chat_template", merge.chat_template ? Json(*merge.chat_template) : Json()},
          {"bytes", bytes_json(merge.plan.totals(), layout)},
          {"warnings", merge.warnings},
          {"config", merge.model_config},
          {"tensors", tensors_json(merge.plan, layout)}};
}

std::string methods_text() {
  std::string out;
  for (const MergeMethod* method : merge_methods()) {
    out += fmt::format("{}: {}\n  {}\n", method->name, method->summary, models_text(*method));
    for (const ParameterSpec& spec : method->parameters) {
      const Json fallback = default_json(spec);
      out += fmt::format("  {:<18} {}{}: {} ({})\n", spec.name, type_text(spec),
                         spec.scope == ParameterSpec::Scope::tensor ? "" : " a model", spec.summary,
                         fallback.is_null() ? "needed" : fallback.dump());
    }
    if (!method->paper.empty()) out += fmt::format("  {}\n", method->paper);
    out += "\n";
  }
  out.pop_back();
  return out;
}

Json methods_json() {
  Json out = Json::array();
  for (const MergeMethod* method : merge_methods()) {
    Json parameters = Json::array();
    for (const ParameterSpec& spec : method->parameters)
      parameters.push_back({{"name", std::string(spec.name)},
                            {"type", type_text(spec)},
                            {"per_model", spec.scope != ParameterSpec::Scope::tensor},
                            {"default", default_json(spec)},
                            {"summary", std::string(spec.summary)}});
    out.push_back({{"name", std::string(method->name)},
                   {"title", std::string(method->title)},
                   {"summary", std::string(method->summary)},
                   {"models", models_text(*method)},
                   {"parameters", std::move(parameters)},
                   {"paper", method->paper.empty() ? Json() : Json(std::string(method->paper))}});
  }
  return out;
}

}  // namespace moerge
