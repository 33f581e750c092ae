#pragma once
// Pre-tokenizers by their names in GGUF files ("tokenizer.ggml.pre"): how a text is cut before byte-pair
// merging. The names and what they do: llama.cpp, src/llama-vocab.cpp; the spelling: tokenizer.json of a
// model of each.

#include <span>
#include <string_view>

#include "moerge/base/json.h"

namespace moerge {

struct GgufPreTokenizer {
  std::span<const std::string_view> names;
  bool nfc;                                  // the text is brought into Unicode's form NFC first
  std::span<const std::string_view> splits;  // one after the other: every match is a piece of its own
  bool gpt2_words;     // then GPT-2's rule: words, numbers, punctuation, each with the space before it
  bool ignore_merges;  // a piece that is a token is not merged from letters
  bool add_bos;        // unless the file says otherwise
};

std::span<const GgufPreTokenizer> pre_tokenizers();
const GgufPreTokenizer* find_pre_tokenizer(std::string_view name);

/// "normalizer" and "pre_tokenizer" of tokenizer.json.
Json normalizer_json(const GgufPreTokenizer& pre);
Json pre_tokenizer_json(const GgufPreTokenizer& pre);

}  // namespace moerge
