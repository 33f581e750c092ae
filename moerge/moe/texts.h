#pragma once
// The text that an expert comes with, as token sequences: a sample of bounded size, spread over all of it.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "moerge/model/prompt_encoder.h"
#include "moerge/model/tokenizer.h"
#include "moerge/moe/text_files.h"
#include "moerge/moe/text_rows.h"

namespace moerge {

inline constexpr int64_t kMaxSequence = 512, kMinSequence = 8;  // tokens

struct TextOptions {
  int64_t max_tokens;  // of all sequences together
  uint64_t seed;       // where the sample begins
  std::string whose;   // starts messages about the whole: "expert 2 (\"x\")"
  ChatFormatter chat;
};

/// A file is taken in slots of 2048 bytes, in an order that is spread evenly over all files, each by its
/// size, until there are max_tokens tokens or no text is left. So a file of any size costs no more than its
/// sample, and the same files and seed give the same tokens. A slot's text, cut at a line, a space or a
/// character, becomes sequences of at most 512 tokens, each with the beginning-of-sequence token in front, if
/// the model has one. Shorter ones than 8 tokens are left out unless they are all that a document has.
///
/// Throws config as find_text_files() does; input for what is not UTF-8, malformed rows ("FILE:LINE: ..."),
/// and where there is no text at all. Files of at most 64 MB together are checked whole, of larger ones only
/// what is read.
std::vector<TokenSequence> read_texts(std::span<const TextSource> sources, const TextOptions& options,
                                      const Tokenizer& tokenizer);

}  // namespace moerge
