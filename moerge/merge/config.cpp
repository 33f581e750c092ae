#include "moerge/merge/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "moerge/base/suggest.h"
#include "moerge/model/yaml_values.h"

namespace moerge {
namespace {

constexpr std::array<std::string_view, 12> kTopKeys = {
    "merge_method", "base_model", "models",        "slices",    "parameters",       "dtype",
    "out_dtype",    "name",       "chat_template", "tokenizer", "tokenizer_source", "modules"};
constexpr std::array<std::string_view, 4> kModuleKeys = {"models", "slices", "parameters", "name"};
constexpr std::array<std::string_view, 2> kModelKeys = {"model", "parameters"};
constexpr std::array<std::string_view, 3> kSourceKeys = {"model", "layer_range", "parameters"};
constexpr std::array<std::string_view, 4> kSliceKeys = {"sources", "base_model", "parameters",
                                                        "residual_weight"};
constexpr size_t kMaxModels = 1000, kMaxSlices = 100'000;

bool is_said(const YamlNode* node) { return node && node->kind != YamlNode::Kind::null; }

class ConfigReader {
 public:
  ConfigReader(const YamlNode& root, MergeConfig& config, YamlProblems& problems)
      : root_(root), config_(config), problems_(problems) {}

  void read() {
    problems_.check_keys(root_, kTopKeys);
    config_.method = read_method();
    config_.base_model = read_model_reference(root_, "base_model", problems_).value_or("");
    config_.dtype = read_dtype(root_, "dtype", problems_);
    config_.out_dtype = read_dtype(root_, "out_dtype", problems_);
    config_.parameters = parameters(root_);
    config_.tokenizer = read_tokenizer_settings(root_, config_.file, problems_);
    config_.name = problems_.text(root_, "name").value_or("");
    config_.chat_template = problems_.text(root_, "chat_template").value_or("");
    if (!config_.chat_template.empty()) config_.chat_template_place = place(*root_.find("chat_template"));
    const YamlNode& body = read_module();
    const YamlNode *models = body.find("models"), *slices = body.find("slices");
    if (is_said(models) == is_said(slices))
      return problems_.error(is_said(slices) ? *slices : body,
                             is_said(slices)
                                 ? "both \"models\" and \"slices\": one of them says what is merged"
                                 : "neither \"models\" nor \"slices\": what is to be merged?");
    if (is_said(models))
      read_models(*models);
    else
      read_slices(*slices);
    if (config_.method) check_slices();
  }

 private:
  Place place(const YamlNode& node) const {
    return fmt::format("{}:{}:{}", config_.file, node.line, node.column);
  }

  // What stands under the one name of "modules", or the document itself.
  const YamlNode& read_module() {
    const YamlNode* modules = root_.find("modules");
    if (!is_said(modules)) return root_;
    if (!problems_.expect_map(*modules, "\"modules\"")) return root_;
    if (is_said(root_.find("models")) || is_said(root_.find("slices"))) {
      problems_.error(*modules,
                      "\"modules\" beside \"models\" or \"slices\": one of them says what is merged");
      return root_;
    }
    if (modules->entries.size() != 1) {
      problems_.error(
          *modules,
          fmt::format("\"modules\" has {} entries: models of several towers (vision, encoders) are not "
                      "merged, of a decoder there is one",
                      modules->entries.size()));
      return root_;
    }
    const YamlNode& module = modules->entries.front().value;
    if (!problems_.expect_map(module, "a module")) return root_;
    problems_.check_keys(module, kModuleKeys);
    config_.module_parameters = parameters(module);
    return module;
  }

  // Without a method nothing can be said about its parameters.
  ParameterSettings parameters(const YamlNode& map) {
    return config_.method ? read_parameters(map, *config_.method, problems_) : ParameterSettings();
  }

  const MergeMethod* read_method() {
    const auto name = problems_.text(root_, "merge_method");
    if (name)
      if (const MergeMethod* method = find_merge_method(*name)) return method;
    std::vector<std::string_view> names;
    std::string list;
    for (const MergeMethod* method : merge_methods()) {
      names.push_back(method->name);
      list += fmt::format("\n    {:<17} {}", method->name, method->summary);
    }
    if (!name) {
      if (!root_.find("merge_method"))
        problems_.error(root_, fmt::format("no \"merge_method\"; the methods are:{}", list));
      return nullptr;
    }
    const std::string close = nearest(*name, names);
    problems_.error(*root_.find("merge_method"),
                    fmt::format("unknown merge_method \"{}\"{}; the methods are:{}", *name,
                                close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close), list));
    return nullptr;
  }

  // A list under `key` whose items begin with "- FIRST: ...".
  bool expect_list(const YamlNode& node, std::string_view key, std::string_view first, size_t most) {
    if (node.kind == YamlNode::Kind::sequence && !node.items.empty() && node.items.size() <= most)
      return true;
    problems_.error(
        node,
        fmt::format("\"{}\" should be a list of 1 to {}, each item starting with \"- {}: ...\", found {}",
                    key, most, first,
                    node.kind == YamlNode::Kind::sequence ? fmt::format("a list of {}", node.items.size())
                                                          : node.kind_name()));
    return false;
  }

  MergeSource read_source(const YamlNode& node, bool has_layers) {
    MergeSource source;
    source.place = place(node);
    if (!problems_.expect_map(node, "a model")) return source;
    if (has_layers)
      problems_.check_keys(node, kSourceKeys);
    else
      problems_.check_keys(node, kModelKeys);
    source.model = read_model_reference(node, "model", problems_).value_or("");
    if (source.model.empty() && !is_said(node.find("model"))) problems_.error(node, "this has no \"model\"");
    source.parameters = parameters(node);
    if (has_layers) source.layers = read_layers(node);
    return source;
  }

  std::optional<std::pair<int64_t, int64_t>> read_layers(const YamlNode& node) {
    const YamlNode* range = node.find("layer_range");
    if (!is_said(range)) {
      problems_.error(node, "this has no \"layer_range\": [first, end), counted from 0");
      return {};
    }
    int64_t values[2] = {-1, -1};
    bool good = range->kind == YamlNode::Kind::sequence && range->items.size() == 2;
    for (size_t i = 0; i < 2 && good; i++) {
      const std::string& text = range->items[i].scalar;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), values[i]);
      good = range->items[i].kind == YamlNode::Kind::scalar && error == std::errc() &&
             end == text.data() + text.size();
    }
    if (!good || values[0] < 0 || values[1] <= values[0]) {
      problems_.error(
          *range, "\"layer_range\" should be [first, end): two whole numbers from 0, the second one larger");
      return {};
    }
    return std::pair(values[0], values[1]);
  }

  void read_models(const YamlNode& node) {
    config_.whole_models = true;
    if (!expect_list(node, "models", "model", kMaxModels)) return;
    MergeSlice slice;
    slice.place = place(node);
    for (const YamlNode& item : node.items) slice.sources.push_back(read_source(item, false));
    // What merges differences from a base, or blends with it, reads the base whether it is listed or not.
    const std::string& base = config_.base_model;
    if (!base.empty() && std::ranges::find(slice.sources, base, &MergeSource::model) == slice.sources.end())
      slice.sources.push_back({.model = base, .place = slice.place});
    config_.slices.push_back(std::move(slice));
  }

  void read_slices(const YamlNode& node) {
    if (!expect_list(node, "slices", "sources", kMaxSlices)) return;
    for (const YamlNode& item : node.items) {
      MergeSlice& slice = config_.slices.emplace_back();
      slice.place = place(item);
      if (!problems_.expect_map(item, "a slice")) continue;
      problems_.check_keys(item, kSliceKeys);
      slice.base_model = read_model_reference(item, "base_model", problems_).value_or("");
      slice.parameters = parameters(item);
      const YamlNode* sources = item.find("sources");
      if (!is_said(sources)) {
        problems_.error(item, "this slice has no \"sources\"");
        continue;
      }
      if (!expect_list(*sources, "sources", "model", kMaxModels)) continue;
      for (const YamlNode& source : sources->items) slice.sources.push_back(read_source(source, true));
      check_lengths(slice);
    }
  }

  void check_lengths(const MergeSlice& slice) {
    std::optional<int64_t> length;
    for (const MergeSource& source : slice.sources) {
      if (!source.layers) continue;
      const int64_t own = source.layers->second - source.layers->first;
      if (length.value_or(own) != own)
        problems_.error_at(source.place,
                           fmt::format("this has {} layers, the first source of its slice {}", own, *length));
      length = length.value_or(own);
    }
  }

  // Numbers of models, and the base, as the method wants them.
  void check_slices() {
    const MergeMethod& method = *config_.method;
    for (const MergeSlice& slice : config_.slices) {
      if (slice.sources.empty()) continue;
      const std::string& base = slice.base_model.empty() ? config_.base_model : slice.base_model;
      const bool has_base =
          std::ranges::find(slice.sources, base, &MergeSource::model) != slice.sources.end();
      const auto count = std::ssize(slice.sources);
      if (method.base == BaseRole::required && base.empty())
        problems_.error(root_, fmt::format("{} needs a \"base_model\"", method.name));
      else if (method.base == BaseRole::required && !has_base)
        problems_.error_at(
            slice.place, fmt::format("{} needs the base model \"{}\" among the sources", method.name, base));
      if (count < method.min_models || (method.max_models > 0 && count > method.max_models))
        problems_.error_at(slice.place, fmt::format("{} merges {}, found {}{}", method.name, wanted(method),
                                                    count, count == 1 ? " model" : " models"));
      std::vector<std::string> seen;
      for (const MergeSource& source : slice.sources) {
        if (std::ranges::find(seen, source.model) != seen.end() && !source.model.empty())
          problems_.error_at(source.place, fmt::format("\"{}\" is listed twice here", source.model));
        seen.push_back(source.model);
      }
    }
  }

  static std::string wanted(const MergeMethod& method) {
    const char* with = method.base == BaseRole::required ? ", the base included" : "";
    if (method.max_models == 0) return fmt::format("at least {} models{}", method.min_models, with);
    if (method.max_models == method.min_models)
      return fmt::format("{} {}{}", method.min_models, method.min_models == 1 ? "model" : "models", with);
    return fmt::format("{} to {} models{}", method.min_models, method.max_models, with);
  }

  const YamlNode& root_;
  MergeConfig& config_;
  YamlProblems& problems_;
};

}  // namespace

std::vector<std::string> MergeConfig::models() const {
  std::vector<std::string> out;
  const auto add = [&](const std::string& model) {
    if (!model.empty() && std::ranges::find(out, model) == out.end()) out.push_back(model);
  };
  add(base_model);
  for (const MergeSlice& slice : slices) {
    for (const MergeSource& source : slice.sources) add(source.model);
    add(slice.base_model);
  }
  return out;
}

std::vector<std::string> MergeConfig::all_models() const {
  std::vector<std::string> out = models();
  if (tokenizer)
    for (const std::string& model : tokenizer->models())
      if (std::ranges::find(out, model) == out.end()) out.push_back(model);
  return out;
}

MergeConfig read_merge_config(const YamlNode& root, const std::string& file, YamlProblems& problems) {
  MergeConfig config;
  config.file = file;
  if (problems.expect_map(root, "the configuration")) ConfigReader(root, config, problems).read();
  return config;
}

MergeConfig parse_merge_config(std::string_view yaml, const std::string& file) {
  YamlProblems problems(file);
  MergeConfig config = read_merge_config(parse_yaml(yaml, file), file, problems);
  problems.throw_if_any();
  config.yaml = yaml;
  config.warnings = problems.warnings();
  return config;
}

bool is_merge_config(const YamlNode& root) {
  return !root.find("experts") &&
         (root.find("merge_method") || root.find("models") || root.find("slices") || root.find("modules"));
}

}  // namespace moerge
