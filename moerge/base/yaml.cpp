#include "moerge/base/yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>
#include <sstream>

#include "moerge/base/error.h"
#include "moerge/base/suggest.h"

namespace moerge {
namespace {

constexpr int kMaxDepth = 100;
constexpr int kMaxNodes = 1'000'000;
constexpr size_t kTextOfNode = 100;  // bytes that count as no more than the node itself

// Our tree from the parser's events.
class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(const std::string& file, size_t max_documents) : file_(file), max_documents_(max_documents) {}

  std::vector<YamlNode> take() { return std::move(roots_); }
  size_t documents() const { return roots_.size(); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (roots_.size() == max_documents_)
      refuse(at(mark), max_documents_ == 1 ? "a second document starts here (\"---\"); one is expected"
                                           : fmt::format("more than {} documents", max_documents_));
    roots_.push_back(at(YAML::Mark()));
    anchors_.clear();  // they end with their document
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { add(at(mark), anchor); }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode node = at(mark);
    node.kind = YamlNode::Kind::scalar;
    node.scalar = value;
    add(std::move(node), anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) refuse(at(mark), "an alias inside the node that it names");
    count(at(mark), found->second.nodes);
    place(YamlNode(found->second.node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, anchor, YamlNode::Kind::sequence);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, anchor, YamlNode::Kind::map);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override {
    YamlNode& map = open_.back().node;
    std::set<std::string> seen;
    for (const auto& [key, value] : map.entries)
      if (!seen.insert(key.scalar).second) refuse(key, fmt::format("\"{}\" is given twice", key.scalar));
    std::vector<YamlNode> merged = std::move(open_.back().merged);
    for (YamlNode& value : merged) merge(map, std::move(value), seen);
    close();
  }

 private:
  struct Open {  // a sequence or map whose end has not come yet
    YamlNode node;
    YAML::anchor_t anchor;
    int first;                     // nodes counted before it
    std::optional<YamlNode> key;   // of a map: read, and its value is not
    std::vector<YamlNode> merged;  // values of "<<"
  };
  struct Anchored {
    YamlNode node;
    int nodes;
  };

  static YamlNode at(const YAML::Mark& mark) {
    YamlNode node;
    node.line = std::max(mark.line + 1, 1);
    node.column = std::max(mark.column + 1, 1);
    return node;
  }

  void count(const YamlNode& where, int nodes, int copies = 0) {
    nodes_ += nodes;
    copies_ += copies;
    if (nodes_ + copies_ > kMaxNodes) refuse(where, "too large once its aliases are expanded");
  }

  void open(const YAML::Mark& mark, YAML::anchor_t anchor, YamlNode::Kind kind) {
    YamlNode node = at(mark);
    if (std::ssize(open_) >= kMaxDepth) refuse(node, "nested too deeply");
    node.kind = kind;
    open_.push_back({std::move(node), anchor, nodes_, {}, {}});
  }

  void close() {
    Open closed = std::move(open_.back());
    open_.pop_back();
    add(std::move(closed.node), closed.anchor, closed.first);
  }

  // A complete node; `first`: the nodes counted before it, if it is not only itself.
  void add(YamlNode node, YAML::anchor_t anchor, std::optional<int> first = {}) {
    const int before = first.value_or(nodes_);
    count(node, 1 + static_cast<int>(node.scalar.size() / kTextOfNode));
    if (anchor) {
      count(node, 0, nodes_ - before);
      anchors_[anchor] = {node, nodes_ - before};
    }
    place(std::move(node));
  }

  // It goes where it belongs: the document, a list, a map's key or value.
  void place(YamlNode node) {
    if (open_.empty()) {
      roots_.back() = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.kind == YamlNode::Kind::sequence) {
      parent.node.items.push_back(std::move(node));
    } else if (!parent.key) {
      if (node.kind != YamlNode::Kind::scalar) refuse(node, "a key must be a plain word");
      parent.key = std::move(node);
    } else {
      if (parent.key->scalar == "<<")
        parent.merged.push_back(std::move(node));
      else
        parent.node.entries.push_back({std::move(*parent.key), std::move(node)});
      parent.key.reset();
    }
  }

  // The merge key of YAML 1.1: entries of another map (or maps) that the map itself does not have.
  void merge(YamlNode& out, YamlNode value, std::set<std::string>& seen) {
    if (value.kind == YamlNode::Kind::sequence) {
      for (YamlNode& item : value.items) merge(out, std::move(item), seen);
      return;
    }
    if (value.kind != YamlNode::Kind::map) refuse(value, "\"<<\" needs a map");
    for (auto& entry : value.entries)
      if (seen.insert(entry.key.scalar).second) out.entries.push_back(std::move(entry));
  }

  [[noreturn]] void refuse(const YamlNode& node, std::string_view why) const {
    fail(ErrorKind::config, "{}:{}:{}: {}", file_, node.line, node.column, why);
  }

  const std::string& file_;
  const size_t max_documents_;
  std::vector<YamlNode> roots_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, Anchored> anchors_;
  int nodes_ = 0, copies_ = 0;  // copies: of nodes for the aliases that may follow
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

namespace {

std::vector<YamlNode> parse_documents(std::string_view text, const std::string& file, size_t most) {
  if (text.find('\0') != std::string_view::npos) fail(ErrorKind::config, "{}: not a text file", file);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    TreeBuilder builder(file, most);
    // One document more than allowed is refused by the builder. (The library's own loop over documents never
    // ends on some texts: a round without a document is the last one.)
    for (size_t before = 0; parser.HandleNextDocument(builder) && builder.documents() > before;)
      before = builder.documents();
    return builder.take();
  } catch (const YAML::DeepRecursion& error) {
    fail(ErrorKind::config, "{}:{}:{}: nested too deeply", file, error.mark.line + 1, error.mark.column + 1);
  } catch (const YAML::Exception& error) {
    if (error.mark.is_null()) fail(ErrorKind::config, "{}: {}", file, error.msg);
    fail(ErrorKind::config, "{}:{}:{}: {}", file, error.mark.line + 1, error.mark.column + 1, error.msg);
  }
}

}  // namespace

YamlNode parse_yaml(std::string_view text, const std::string& file) {
  std::vector<YamlNode> documents = parse_documents(text, file, 1);
  if (!documents.empty()) return std::move(documents.front());
  YamlNode nothing;
  nothing.line = nothing.column = 1;
  return nothing;
}

std::vector<YamlNode> parse_yaml_documents(std::string_view text, const std::string& file) {
  constexpr size_t kMaxDocuments = 1000;
  return parse_documents(text, file, kMaxDocuments);
}

std::string YamlProblems::place(const YamlNode& at) const {
  return fmt::format("{}:{}:{}", file_, at.line, at.column);
}

void YamlProblems::error(const YamlNode& at, std::string_view message) { error_at(place(at), message); }

void YamlProblems::error_at(std::string_view where, std::string_view message) {
  errors_.push_back(fmt::format("{}: {}", where, message));
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
