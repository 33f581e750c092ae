#pragma once
// The texts of `moerge route`: files and prompts from the command line, each for an expert or for none, and
// the token windows that they become.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/model/prompt_encoder.h"
#include "moerge/model/tokenizer.h"
#include "moerge/moe/config.h"
#include "moerge/moe/routing_report.h"

namespace moerge {

/// What the experts of a mixture are called.
class ExpertNames {
 public:
  explicit ExpertNames(int64_t experts) : names_(static_cast<size_t>(experts)) {}
  /// The configuration's experts are the mixture's last ones. `kept`: how many are before them.
  ExpertNames(int64_t kept, const MoeConfig& config);

  int64_t count() const { return std::ssize(names_); }
  /// The last component of what the YAML calls it; empty where there is none.
  std::string short_name(int64_t expert) const;
  /// A number, a name as the YAML has it or its last component. Throws usage when several have that name.
  std::optional<int64_t> find(std::string_view label) const;
  /// "0 (code), 1 (maths)".
  std::string list() const;
  /// The name that is close enough to be meant, or empty.
  std::string nearest_name(std::string_view label) const;

 private:
  std::vector<std::string> names_;
};

struct LabelledText {
  std::string name;   // for the report
  std::string where;  // for messages
  int64_t meant = -1;
  std::vector<std::string> documents;
};

/// --text [LABEL=]FILE. Throws usage for a label that is none and a file that is not there, input for what
/// is no UTF-8 text or has none.
LabelledText read_text_flag(const std::string& value, const ExpertNames& names);
/// --prompt [LABEL=]TEXT; "=TEXT" is one without label whatever is in it.
LabelledText read_prompt_flag(const std::string& value, const ExpertNames& names);
/// The positive prompts of a configuration, each for its expert.
std::vector<LabelledText> configured_prompts(int64_t kept, const MoeConfig& config);

/// Tokens that see each other.
struct TextWindow {
  size_t text;  // its place in the report
  TokenSequence tokens;
  int64_t prefix;    // so many of them are no text: the beginning-of-sequence token
  int64_t kept = 0;  // so many of them are shown on their own
};

/// Cuts texts into windows, each with the beginning-of-sequence token in front where there is one.
class TextCutter {
 public:
  TextCutter(const Tokenizer& tokenizer, int64_t window, int64_t max_tokens);
  /// Appends to both. Throws input for a text without tokens.
  void add(const LabelledText& text, std::vector<RoutedText>& texts, std::vector<TextWindow>& windows) const;
  /// One text that is tokens already, each sequence with that token in front; max_tokens of it at most.
  void add_sequences(RoutedText text, std::span<const TokenSequence> sequences,
                     std::vector<RoutedText>& texts, std::vector<TextWindow>& windows) const;
  /// Text of every token; put together, the window's.
  std::vector<std::string> pieces(std::span<const int32_t> tokens) const;

 private:
  void add_windows(size_t text, std::span<const int32_t> ids, std::vector<TextWindow>& windows) const;
  TokenSequence encode_beginning(const std::string& document, int64_t max_tokens, bool& whole) const;

  const Tokenizer& tokenizer_;
  const int64_t window_, max_tokens_;
  std::string bos_;
  TokenSequence prefix_;
};

}  // namespace moerge
