#pragma once
// The tokenizer of a model folder as transformers' AutoTokenizer has it: tokenizer.json, or what
// tokenizer.model becomes, and what the files beside it add.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/model/tokenizer.h"

namespace moerge {

struct TokenizerFiles {
  std::filesystem::path folder;
  Json tokenizer;                 // tokenizer.json without the "vocab" of its model; null when absent
  bool names_byte_level = false;  // "ByteLevel" stands somewhere in it
  Json tokenizer_config;          // an empty object when absent
  Json special_tokens_map;        // the same
  Json added_tokens;              // added_tokens.json, text -> id; the same
  bool sentencepiece = false;     // there is a tokenizer.model
};

/// Throws input for files that are damaged or no objects.
TokenizerFiles read_tokenizer_files(const std::filesystem::path& folder);

struct HfTokenizer {
  Tokenizer tokenizer;
  /// Texts of the tokens that have a role (beginning of sequence, padding, ...) or are called special beside
  /// tokenizer.json.
  std::vector<std::string> special;
};

/// tokenizer.json or tokenizer.model must be there. `config` is the model's config.json. Throws input.
HfTokenizer load_hf_tokenizer(const TokenizerFiles& files, const Json& config);

/// `tokenizer` with the tokens that the files beside it add.
HfTokenizer with_stated_tokens(const TokenizerFiles& files, const Json& config, Tokenizer tokenizer);

/// The tokens of tokenizer_config.json's "added_tokens_decoder", in the file's order.
std::vector<Token> decoder_tokens(const TokenizerFiles& files);

/// What tokenizer files state for a special token such as "bos_token".
struct StatedToken {
  bool stated = false;              // they may state that there is none
  std::optional<std::string> text;  // empty: none
};

/// As transformers reads them: special_tokens_map.json outweighs tokenizer_config.json where that has no
/// "added_tokens_decoder", and is not read at all where it has. Throws input for what is neither a text, an
/// object with "content" nor null.
StatedToken stated_token(const Json& tokenizer_config, const Json& special_tokens_map, const char* key,
                         const std::filesystem::path& folder);

/// Members of an object whatever it is: null when it is no object or has no such member.
const Json& member(const Json& object, std::string_view key);

/// The text of a token that is given as a string or an object with "content"; empty when it is neither.
std::string token_text(const Json& token);

}  // namespace moerge
