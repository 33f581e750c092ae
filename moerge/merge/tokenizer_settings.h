#pragma once
// What the YAML of a merge says of the result's tokenizer: "tokenizer_source" or "tokenizer".

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moerge/base/yaml.h"

namespace moerge {

/// Where something was written, for messages about it: "FILE:LINE:COLUMN".
using Place = std::string;

/// Where a token's row comes from in models that lack the token, or with `force` in all models.
struct TokenSource {
  enum class Kind {
    automatic,    // as for tokens of which nothing is said
    model,        // the token's row in that model
    model_token,  // another token's row in that model
    zero,
  };
  Kind kind = Kind::automatic;
  std::string model = {};
  // Of model_token one of these.
  std::optional<std::string> token = {};
  std::optional<int64_t> token_id = {};
  bool force = false;
  Place place = {};
};

struct TokenizerSettings {
  enum class Source { base, union_, model };
  Source source = Source::union_;
  std::string model;  // of Source::model
  /// By the tokens' texts, in the document's order; what the vocabulary lacks is added to it.
  std::vector<std::pair<std::string, TokenSource>> tokens;
  std::optional<int64_t> pad_to_multiple_of;
  Place place;

  /// The models that it names, each once.
  std::vector<std::string> models() const;
};

inline constexpr int64_t kMaxVocabularyPadding = 1 << 16;  // of pad_to_multiple_of

/// From the document's root; empty when neither key is said, or when what is said is no map. What is wrong
/// becomes a problem; `file` begins the places.
std::optional<TokenizerSettings> read_tokenizer_settings(const YamlNode& root, const std::string& file,
                                                         YamlProblems& problems);

}  // namespace moerge
