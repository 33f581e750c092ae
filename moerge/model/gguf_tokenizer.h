#pragma once
// The files of a Hugging Face tokenizer from the vocabulary that a GGUF file carries.

#include <optional>
#include <string>

#include "moerge/formats/gguf.h"

namespace moerge {

/// "tokenizer.ggml.token_type".
enum TokenType : int32_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct GgufTokenizer {
  std::string tokenizer_json;         // for the tokenizers library
  std::string tokenizer_config_json;  // special tokens, chat template: for transformers
  std::optional<std::string> bos_token;
};

/// False for a file that says it has no vocabulary.
bool has_gguf_tokenizer(const GgufMetadata& metadata);

/// Both kinds that Llama's family uses: "gpt2" (byte-level BPE, cut as tokenizer.ggml.pre names it) and
/// "llama" (SentencePiece BPE, whose merges follow from the scores, as transformers reconstructs them). What
/// GGUF does not keep is not here: whether a special token takes the spaces around it, and tokens that only
/// pad the embeddings. Throws unsupported for other kinds and pre-tokenizers, naming them; input for a
/// damaged vocabulary.
GgufTokenizer make_gguf_tokenizer(const GgufMetadata& metadata, const std::string& where);

}  // namespace moerge
