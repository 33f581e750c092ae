#pragma once
// YAML as a plain tree that remembers where everything stood, and a reader that collects every problem of a
// document before it gives up.

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moerge {

struct YamlNode {
  enum class Kind { null, scalar, sequence, map };
  Kind kind = Kind::null;
  int line = 0, column = 0;  // from 1
  std::string scalar;
  std::vector<YamlNode> items;  // sequence
  struct Entry;
  std::vector<Entry> entries;  // map; keys are scalars

  const YamlNode* find(std::string_view key) const;
  const char* kind_name() const;
};

struct YamlNode::Entry {
  YamlNode key, value;
};

/// Parses one document. Anchors, aliases and "<<" merge keys are expanded; a document that expands to more
/// than a million nodes (a long text counts as several) or nests deeper than 100 levels is refused. Throws
/// ErrorKind::config as "FILE:LINE:COLUMN: ...".
YamlNode parse_yaml(std::string_view text, const std::string& file);

/// The same of a text with several documents, "---" between them; at most 1,000.
std::vector<YamlNode> parse_yaml_documents(std::string_view text, const std::string& file);

/// Collects problems "FILE:LINE:COLUMN: message" while a document is read; throw_if_any() ends with all of
/// them.
class YamlProblems {
 public:
  explicit YamlProblems(std::string file) : file_(std::move(file)) {}

  void error(const YamlNode& at, std::string_view message);
  /// For what is found out after the document was read; `place` as "FILE:LINE:COLUMN".
  void error_at(std::string_view place, std::string_view message);
  void warning(const YamlNode& at, std::string_view message);
  void throw_if_any() const;
  const std::vector<std::string>& warnings() const { return warnings_; }

  /// A map; reports another kind of node and returns false.
  bool expect_map(const YamlNode& node, std::string_view what);
  /// Reports keys that are not in `known`: an error with the spelling when one is close, a warning otherwise.
  void check_keys(const YamlNode& map, std::span<const std::string_view> known);

  // Values of a map by key; empty (and a problem, if the type is wrong) when absent or null.
  std::optional<std::string> text(const YamlNode& map, std::string_view key);
  std::optional<int64_t> integer(const YamlNode& map, std::string_view key);
  std::optional<double> number(const YamlNode& map, std::string_view key);
  /// A list of strings; one string alone is taken as a list of one.
  std::vector<std::string> texts(const YamlNode& map, std::string_view key);

 private:
  std::string place(const YamlNode& at) const;
  const YamlNode* scalar(const YamlNode& map, std::string_view key, std::string_view expected);

  std::string file_;
  std::vector<std::string> errors_, warnings_;
};

}  // namespace moerge
