#include "moerge/model/yaml_values.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>

#include "moerge/base/suggest.h"

namespace moerge {
namespace {

constexpr std::array<std::string_view, 3> kDTypes = {"bfloat16", "float16", "float32"};

}  // namespace

// What else such a map can say is not supported here, and must not be lost.
std::optional<std::string> read_model_reference(const YamlNode& map, std::string_view key,
                                                YamlProblems& problems) {
  const YamlNode* node = map.find(key);
  if (!node || (!node->find("path") && !node->find("model"))) return problems.text(map, key);
  const bool is_path = node->find("path") != nullptr;
  const std::string_view first = is_path ? "path" : "model", second = is_path ? "revision" : "lora";
  for (const auto& [other, value] : node->entries)
    if (other.scalar != first && other.scalar != second && value.kind != YamlNode::Kind::null)
      problems.error(other, fmt::format("\"{}\" of a model is not supported: write the model as a folder or "
                                        "\"org/name@revision\", with \"+adapter\" for a LoRA adapter",
                                        other.scalar));
  std::optional<std::string> model = read_model_reference(*node, first, problems);
  const std::optional<std::string> more = read_model_reference(*node, second, problems);
  if (model && more && !more->empty()) *model += (is_path ? "@" : "+") + *more;
  return model;
}

std::optional<DType> read_dtype(const YamlNode& map, std::string_view key, YamlProblems& problems) {
  const auto name = problems.text(map, key);
  if (!name) return {};
  const DTypeInfo* dtype = find_dtype(*name);
  if (dtype && is_float(dtype->dtype) && dtype->dtype != DType::f64) return dtype->dtype;
  const std::string close = nearest(*name, kDTypes);
  problems.error(*map.find(key),
                 fmt::format("unknown {} \"{}\"{}; {} are possible", key, *name,
                             close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close),
                             fmt::join(kDTypes, ", ")));
  return {};
}

}  // namespace moerge
