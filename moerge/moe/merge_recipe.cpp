#include "moerge/moe/merge_recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/yaml.h"

namespace moerge {
namespace {

constexpr size_t kMaxShown = 8;        // of the values of one parameter
constexpr size_t kMaxStatements = 12;  // of one model
constexpr int kMaxDepth = 4;           // modules, their slices, the slices' sources

std::string text_of(const YamlNode* node) {
  return node && node->kind == YamlNode::Kind::scalar ? node->scalar : "";
}

// A text, or {model: ..., lora: ...}, in which either is a text or {path: ..., revision: ...}.
std::string reference_of(const YamlNode* node) {
  if (!node || node->kind != YamlNode::Kind::map) return text_of(node);
  const bool is_path = node->find("path") != nullptr;
  const std::string first = reference_of(node->find(is_path ? "path" : "model"));
  const std::string more = reference_of(node->find(is_path ? "revision" : "lora"));
  return more.empty() ? first : first + (is_path ? "@" : "+") + more;
}

// "0.5"; "0, 0.5, 1" of a gradient over the layers; empty for what takes more than a few words.
std::string value_of(const YamlNode& node) {
  if (node.kind == YamlNode::Kind::scalar) return node.scalar;
  std::string out;
  if (node.kind != YamlNode::Kind::sequence || node.items.size() > kMaxShown) return "";
  for (const YamlNode& item : node.items) {
    if (item.kind != YamlNode::Kind::scalar) return "";
    out += (out.empty() ? "" : ", ") + item.scalar;
  }
  return out;
}

class RecipeReader {
 public:
  explicit RecipeReader(MergeRecipe& recipe) : recipe_(recipe) {}

  void read(const YamlNode& node, int depth = 0) {
    if (depth > kMaxDepth || node.kind != YamlNode::Kind::map) return;
    if (const YamlNode* models = node.find("models"))
      for (const YamlNode& item : models->items) read_model(item);
    if (const YamlNode* slices = node.find("slices"))
      for (const YamlNode& slice : slices->items)
        if (const YamlNode* sources = slice.find("sources"))
          for (const YamlNode& item : sources->items) read_model(item);
    if (const YamlNode* modules = node.find("modules"))
      for (const auto& [name, module] : modules->entries) read(module, depth + 1);
    if (const std::string base = reference_of(node.find("base_model")); !base.empty())
      state(base, "the base");
  }

 private:
  MergedModel& model(const std::string& reference) {
    const auto found = std::ranges::find(recipe_.models, reference, &MergedModel::reference);
    if (found != recipe_.models.end()) return *found;
    return recipe_.models.emplace_back(MergedModel{.reference = reference});
  }

  void state(const std::string& reference, std::string statement) {
    std::vector<std::string>& all = model(reference).statements;
    if (std::ranges::find(all, statement) == all.end() && all.size() < kMaxStatements)
      all.push_back(std::move(statement));
  }

  void read_model(const YamlNode& item) {
    const std::string reference = reference_of(item.find("model"));
    if (reference.empty()) return;
    model(reference);
    const YamlNode* range = item.find("layer_range");
    if (range && range->items.size() == 2)
      state(reference, fmt::format("layers {} to {}", text_of(&range->items[0]), before(range->items[1])));
    if (const YamlNode* parameters = item.find("parameters"))
      for (const auto& [key, value] : parameters->entries) {
        const std::string shown = value_of(value);
        state(reference, fmt::format("{} {}", key.scalar, shown.empty() ? "by layer or tensor" : shown));
      }
  }

  // layer_range is half open; what is no number stays as it is.
  static std::string before(const YamlNode& end) {
    int64_t value = 0;
    const std::string& text = end.scalar;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && rest == text.data() + text.size() ? std::to_string(value - 1) : text;
  }

  MergeRecipe& recipe_;
};

}  // namespace

MergeRecipe parse_merge_recipe(std::string_view yaml, const std::string& file) {
  MergeRecipe recipe;
  std::set<std::string> names;
  for (const YamlNode& root : parse_yaml_documents(yaml, file)) {
    const std::string name = text_of(root.find("name"));
    if (name.empty() || recipe.method.empty()) recipe.method = text_of(root.find("merge_method"));
    names.insert(name);
    RecipeReader(recipe).read(root);
  }
  // Documents that others build on are no models.
  std::erase_if(recipe.models, [&](const MergedModel& model) { return names.contains(model.reference); });
  if (recipe.models.empty())
    fail(ErrorKind::config,
         "{}: no model in it: \"models\", \"slices\" or \"modules\" with models is expected", file);
  return recipe;
}

}  // namespace moerge
