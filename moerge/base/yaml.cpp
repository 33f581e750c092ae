#include "moerge/base/yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/suggest.h"

namespace moerge {
namespace {

constexpr int kMaxDepth = 100;
constexpr int kMaxNodes = 1'000'000;

// yaml-cpp's tree into ours.
class Converter {
 public:
  explicit Converter(const std::string& file) : file_(file) {}

  YamlNode convert(const YAML::Node& node, int depth) {
    YamlNode out;
    out.line = std::max(node.Mark().line + 1, 1);  // an empty document has no mark
    out.column = std::max(node.Mark().column + 1, 1);
    if (depth > kMaxDepth) refuse(out, "nested too deeply");
    if (++count_ > kMaxNodes) refuse(out, "too large once its aliases are expanded");
    switch (node.Type()) {
      case YAML::NodeType::Undefined:
      case YAML::NodeType::Null:
        break;
      case YAML::NodeType::Scalar:
        out.kind = YamlNode::Kind::scalar;
        out.scalar = node.Scalar();
        break;
      case YAML::NodeType::Sequence:
        out.kind = YamlNode::Kind::sequence;
        for (const YAML::Node& item : node) out.items.push_back(convert(item, depth + 1));
        break;
      case YAML::NodeType::Map:
        out.kind = YamlNode::Kind::map;
        convert_map(node, out, depth);
        break;
    }
    return out;
  }

 private:
  void convert_map(const YAML::Node& node, YamlNode& out, int depth) {
    std::set<std::string> seen;
    std::vector<YamlNode> merged;
    for (const auto& entry : node) {
      YamlNode key = convert(entry.first, depth + 1);
      YamlNode value = convert(entry.second, depth + 1);
      if (key.kind != YamlNode::Kind::scalar) refuse(key, "a key must be a plain word");
      if (key.scalar == "<<") {
        merged.push_back(std::move(value));
        continue;
      }
      if (!seen.insert(key.scalar).second) refuse(key, fmt::format("\"{}\" is given twice", key.scalar));
      out.entries.emplace_back(std::move(key), std::move(value));
    }
    for (YamlNode& value : merged) merge(out, std::move(value), seen);
  }

  // The merge key of YAML 1.1: entries of another map (or maps) that the map itself does not have.
  void merge(YamlNode& out, YamlNode value, std::set<std::string>& seen) {
    if (value.kind == YamlNode::Kind::sequence) {
      for (YamlNode& item : value.items) merge(out, std::move(item), seen);
      return;
    }
    if (value.kind != YamlNode::Kind::map) refuse(value, "\"<<\" needs a map");
    for (auto& entry : value.entries)
      if (seen.insert(entry.first.scalar).second) out.entries.push_back(std::move(entry));
  }

  [[noreturn]] void refuse(const YamlNode& at, std::string_view why) const {
    fail(ErrorKind::config, "{}:{}:{}: {}", file_, at.line, at.column, why);
  }

  const std::string& file_;
  int count_ = 0;
};

template <typename T>
bool parse_number(std::string_view text, T& value) {
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const {
  for (const auto& [k, v] : entries)
    if (k.scalar == key) return &v;
  return nullptr;
}

const char* YamlNode::kind_name() const {
  switch (kind) {
    case Kind::null:
      return "nothing";
    case Kind::scalar:
      return "a single value";
    case Kind::sequence:
      return "a list";
    case Kind::map:
      return "a map";
  }
  return "";
}

YamlNode parse_yaml(std::string_view text, const std::string& file) {
  if (text.find('\0') != std::string_view::npos) fail(ErrorKind::config, "{}: not a text file", file);
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(std::string(text));
    if (documents.size() > 1) {
      const YAML::Mark mark = documents[1].Mark();
      fail(ErrorKind::config, "{}:{}:{}: a second document starts here (\"---\"); one is expected", file,
           mark.line + 1, mark.column + 1);
    }
    return Converter(file).convert(documents.empty() ? YAML::Node() : documents[0], 0);
  } catch (const YAML::DeepRecursion& error) {
    fail(ErrorKind::config, "{}:{}:{}: nested too deeply", file, error.mark.line + 1, error.mark.column + 1);
  } catch (const YAML::Exception& error) {
    if (error.mark.is_null()) fail(ErrorKind::config, "{}: {}", file, error.msg);
    fail(ErrorKind::config, "{}:{}:{}: {}", file, error.mark.line + 1, error.mark.column + 1, error.msg);
  }
}

std::string YamlProblems::place(const YamlNode& at) const {
  return fmt::format("{}:{}:{}", file_, at.line, at.column);
}

void YamlProblems::error(const YamlNode& at, std::string_view message) {
  errors_.push_back(fmt::format("{}: {}", place(at), message));
}

void YamlProblems::warning(const YamlNode& at, std::string_view message) {
  warnings_.push_back(fmt::format("{}: {}", place(at), message));
}

void YamlProblems::throw_if_any() const {
  if (!errors_.empty()) throw Error(ErrorKind::config, fmt::format("{}", fmt::join(errors_, "\n")));
}

bool YamlProblems::expect_map(const YamlNode& node, std::string_view what) {
  if (node.kind == YamlNode::Kind::map) return true;
  error(node, fmt::format("{} should be a map of \"key: value\" lines, found {}", what, node.kind_name()));
  return false;
}

void YamlProblems::check_keys(const YamlNode& map, std::span<const std::string_view> known) {
  for (const auto& [key, value] : map.entries) {
    bool found = false;
    for (std::string_view name : known) found = found || name == key.scalar;
    if (found) continue;
    if (const std::string close = nearest(key.scalar, known); !close.empty())
      error(key, fmt::format("unknown key \"{}\" (did you mean \"{}\"?)", key.scalar, close));
    else
      warning(key, fmt::format("unknown key \"{}\" is ignored (known here: {})", key.scalar,
                               fmt::join(known, ", ")));
  }
}

const YamlNode* YamlProblems::scalar(const YamlNode& map, std::string_view key, std::string_view expected) {
  const YamlNode* node = map.find(key);
  if (!node || node->kind == YamlNode::Kind::null) return nullptr;
  if (node->kind == YamlNode::Kind::scalar) return node;
  error(*node, fmt::format("\"{}\" should be {}, found {}", key, expected, node->kind_name()));
  return nullptr;
}

std::optional<std::string> YamlProblems::text(const YamlNode& map, std::string_view key) {
  const YamlNode* node = scalar(map, key, "a text");
  return node ? std::optional(node->scalar) : std::nullopt;
}

std::optional<int64_t> YamlProblems::integer(const YamlNode& map, std::string_view key) {
  const YamlNode* node = scalar(map, key, "a whole number");
  int64_t value = 0;
  if (!node) return {};
  if (parse_number(node->scalar, value)) return value;
  error(*node, fmt::format("\"{}\" should be a whole number, found \"{}\"", key, node->scalar));
  return {};
}

std::optional<double> YamlProblems::number(const YamlNode& map, std::string_view key) {
  const YamlNode* node = scalar(map, key, "a number");
  double value = 0;
  if (!node) return {};
  if (parse_number(node->scalar, value) && std::isfinite(value)) return value;
  error(*node, fmt::format("\"{}\" should be a number, found \"{}\"", key, node->scalar));
  return {};
}

std::vector<std::string> YamlProblems::texts(const YamlNode& map, std::string_view key) {
  const YamlNode* node = map.find(key);
  if (!node || node->kind == YamlNode::Kind::null) return {};
  if (node->kind == YamlNode::Kind::scalar) return {node->scalar};
  std::vector<std::string> out;
  if (node->kind == YamlNode::Kind::map) {
    error(*node, fmt::format(
                     "\"{}\" should be a list of texts, found a map (quote texts that contain \": \")", key));
    return out;
  }
  for (const YamlNode& item : node->items) {
    if (item.kind == YamlNode::Kind::scalar)
      out.push_back(item.scalar);
    else
      error(item,
            fmt::format("\"{}\" should be a list of texts, found {} in it (quote texts that contain \": \")",
                        key, item.kind_name()));
  }
  return out;
}

}  // namespace moerge
