#pragma once
// A model's own tokenizer.json, through the Hugging Face tokenizers library.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moerge {

class Tokenizer {
 public:
  /// Reads FOLDER/tokenizer.json, tokenizer_config.json and special_tokens_map.json. Throws input or
  /// unsupported (only tokenizer.model in the folder).
  explicit Tokenizer(const std::filesystem::path& folder);

  /// Token ids of a text; special tokens in the text are recognised, none is added unless `add_special`.
  /// Throws input when the text is not UTF-8.
  std::vector<int32_t> encode(std::string_view text, bool add_special = false) const;
  /// The beginning-of-sequence token's text as transformers knows it, if the model has one.
  const std::optional<std::string>& bos_token() const { return bos_token_; }
  int64_t vocab_size() const;  // added tokens included

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
  std::string file_;
  std::optional<std::string> bos_token_;
};

}  // namespace moerge
