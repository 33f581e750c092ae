#pragma once
// A model's tokenizer.json, or what its tokenizer.model becomes, through the Hugging Face tokenizers library.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moerge {

struct Token {
  int64_t id = 0;
  std::string text;
  // Added tokens are found in a text before the model sees it; the rest is about them only.
  bool added = false;
  bool special = false;
  bool normalized = false;  // looked for in the normalised text
  bool single_word = false, lstrip = false, rstrip = false;

  bool operator==(const Token&) const = default;
};

class Tokenizer {
 public:
  /// Reads FOLDER/tokenizer.json, tokenizer_config.json and special_tokens_map.json; without tokenizer.json,
  /// tokenizer.model and what the files beside it add (hf_tokenizer.h). Throws input or unsupported.
  explicit Tokenizer(const std::filesystem::path& folder);
  /// From the text of a tokenizer.json; `where` starts messages.
  Tokenizer(std::string_view json, std::optional<std::string> bos_token, std::string where);

  /// Token ids of a text; special tokens in the text are recognised, none is added unless `add_special`.
  /// Throws input when the text is not UTF-8.
  std::vector<int32_t> encode(std::string_view text, bool add_special = false) const;
  /// The beginning-of-sequence token's text as transformers knows it, if the model has one.
  const std::optional<std::string>& bos_token() const { return bos_token_; }
  void set_bos_token(std::optional<std::string> text) { bos_token_ = std::move(text); }
  /// Special tokens are kept, ids outside the vocabulary skipped.
  std::string decode(std::span<const int32_t> ids) const;
  int64_t vocab_size() const;  // added tokens included
  int64_t model_size() const;  // without the added tokens that are not in the model's own vocabulary

  /// The whole vocabulary by ascending id; where two tokens share an id, the added one is last.
  std::vector<Token> tokens() const;
  /// As transformers adds tokens that tokenizer.json lacks: their ids are ignored, a token that is there
  /// keeps its id and gets these flags, others are numbered on from the end.
  void add_tokens(std::span<const Token> tokens);

  /// How many tokens of this vocabulary have another id in (or are missing from) the other, with one example.
  struct Difference {
    int64_t count = 0;
    std::string example;
  };
  Difference difference(const Tokenizer& other) const;

 private:
  struct Free {
    void operator()(void* tokenizer) const;
  };
  std::unique_ptr<void, Free> handle_;
  std::string where_;
  std::optional<std::string> bos_token_;
};

}  // namespace moerge
