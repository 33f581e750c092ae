#include "moerge/merge/parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "moerge/base/suggest.h"

namespace moerge {
namespace {

using Type = ParameterSpec::Type;

constexpr size_t kMaxPoints = 10'000;

std::optional<double> parse_value(std::string_view text, Type type) {
  if (type == Type::flag) {
    for (const std::string_view yes : {"true", "True", "TRUE", "yes", "on", "1"})
      if (text == yes) return 1;
    for (const std::string_view no : {"false", "False", "FALSE", "no", "off", "0"})
      if (text == no) return 0;
    return {};
  }
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
    return {};
  if (type == Type::integer && value != std::floor(value)) return {};
  return value;
}

const char* type_name(Type type) {
  return type == Type::flag ? "true or false" : type == Type::integer ? "a whole number" : "a number";
}

class SettingReader {
 public:
  SettingReader(const ParameterSpec& spec, YamlProblems& problems) : spec_(spec), problems_(problems) {}

  ParameterSetting read(const YamlNode& node) {
    ParameterSetting out = {.spec = &spec_, .rules = {}};
    if (node.kind == YamlNode::Kind::map) {
      add_rule(node, out);
    } else if (is_list_of_rules(node)) {
      for (const YamlNode& item : node.items)
        if (problems_.expect_map(item, fmt::format("each of several values of \"{}\"", spec_.name)))
          add_rule(item, out);
    } else if (std::vector<double> points = read_points(node); !points.empty()) {
      out.rules.push_back({.points = std::move(points)});
    }
    return out;
  }

 private:
  static bool is_list_of_rules(const YamlNode& node) {
    return node.kind == YamlNode::Kind::sequence && std::ranges::any_of(node.items, [](const YamlNode& item) {
             return item.kind == YamlNode::Kind::map;
           });
  }

  void add_rule(const YamlNode& node, ParameterSetting& out) {
    constexpr std::string_view kKeys[] = {"filter", "value"};
    problems_.check_keys(node, kKeys);
    const YamlNode* value = node.find("value");
    if (!value)
      return problems_.error(node, fmt::format("\"{}\" has a \"filter\" and no \"value\"", spec_.name));
    std::vector<double> points = read_points(*value);
    if (!points.empty())
      out.rules.push_back({problems_.text(node, "filter").value_or(""), std::move(points)});
  }

  std::vector<double> read_points(const YamlNode& node) {
    std::vector<double> points;
    const auto add = [&](const YamlNode& item) {
      const std::optional<double> value =
          item.kind == YamlNode::Kind::scalar ? parse_value(item.scalar, spec_.type) : std::nullopt;
      if (value) return points.push_back(*value);
      problems_.error(item, fmt::format("\"{}\" should be {}, found {}", spec_.name, type_name(spec_.type),
                                        item.kind == YamlNode::Kind::scalar ? "\"" + item.scalar + "\""
                                                                            : std::string(item.kind_name())));
    };
    if (node.kind != YamlNode::Kind::sequence) {
      add(node);
    } else if (node.items.empty() || node.items.size() > kMaxPoints) {
      problems_.error(node, fmt::format("\"{}\" is a list of {} values, 1 to {} are expected", spec_.name,
                                        node.items.size(), kMaxPoints));
    } else {
      for (const YamlNode& item : node.items) add(item);
      if (points.size() != node.items.size()) points.clear();
    }
    return points;
  }

  const ParameterSpec& spec_;
  YamlProblems& problems_;
};

}  // namespace

ParameterSettings read_parameters(const YamlNode& map, const MergeMethod& method, YamlProblems& problems) {
  ParameterSettings out;
  const YamlNode* node = map.find("parameters");
  if (!node || node->kind == YamlNode::Kind::null || !problems.expect_map(*node, "\"parameters\""))
    return out;
  std::vector<std::string_view> names;
  for (const ParameterSpec& spec : method.parameters) names.push_back(spec.name);
  for (const auto& [key, value] : node->entries) {
    const auto spec = std::ranges::find(method.parameters, key.scalar, &ParameterSpec::name);
    if (spec != method.parameters.end()) {
      out.push_back(SettingReader(*spec, problems).read(value));
      continue;
    }
    // Recipes are copied from one method to another: what a method does not know is said, and left out.
    const std::string close = nearest(key.scalar, names);
    const std::string known =
        names.empty() ? "it takes none" : fmt::format("known: {}", fmt::join(names, ", "));
    if (!close.empty())
      problems.error(key, fmt::format("{} has no parameter \"{}\" (did you mean \"{}\"?)", method.name,
                                      key.scalar, close));
    else
      problems.warning(
          key, fmt::format("{} has no parameter \"{}\", it is ignored ({})", method.name, key.scalar, known));
  }
  return out;
}

std::optional<double> evaluate(const ParameterSetting& setting, std::string_view tensor, double t) {
  for (const ParameterRule& rule : setting.rules) {
    if (!rule.filter.empty() && rule.filter != "*" && tensor.find(rule.filter) == std::string_view::npos)
      continue;
    const std::vector<double>& points = rule.points;
    const double place = t * static_cast<double>(points.size() - 1);
    const auto before = static_cast<size_t>(place);
    const double part = place - static_cast<double>(before);
    if (setting.spec->type == Type::flag || before + 1 >= points.size()) return points[before];
    const double value = (1 - part) * points[before] + part * points[before + 1];
    return setting.spec->type == Type::integer ? std::trunc(value) : value;
  }
  return {};
}

}  // namespace moerge
