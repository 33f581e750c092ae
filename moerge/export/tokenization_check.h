#pragma once
// Whether llama.cpp will cut texts into the same tokens as the model's own tokenizer.

#include <string>
#include <vector>

#include "moerge/engine/llama_vocabulary.h"
#include "moerge/model/tokenizer.h"

namespace moerge {

/// Texts to compare on: that of llama.cpp's converter, and one with more kinds of spaces, digits, words and
/// signs and with tokens from all over the vocabulary. `prefix` begins both.
std::vector<std::string> comparison_texts(const Tokenizer& tokenizer, const std::string& prefix);

/// A text with tokens in it that are found before the model sees the text; empty when there are none.
std::string added_tokens_text(const Tokenizer& tokenizer);

/// Where the two part ways, for a message: "\"TEXT\" becomes [1, 2], in llama.cpp [3]". Empty when they
/// agree.
std::string tokenization_difference(const Tokenizer& tokenizer, const LlamaVocabulary& vocabulary,
                                    const std::string& text);

}  // namespace moerge
