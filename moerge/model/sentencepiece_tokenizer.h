#pragma once
// A tokenizer.json for a folder that has only SentencePiece's tokenizer.model.

#include <optional>
#include <string>

#include "moerge/model/hf_tokenizer.h"

namespace moerge {

/// The tokenizer that transformers 4's LlamaTokenizerFast makes of it, without the tokens that the other
/// files add: merges from the scores or a unigram model, spaces as U+2581, control pieces special. "legacy",
/// "add_prefix_space", "add_bos_token" and "add_eos_token" of tokenizer_config.json count; what the model's
/// own normaliser would do (NFKC, dropping spaces) does not, because that class leaves it out. The ends that
/// it adds to a text are there when they are pieces.
///
/// Throws input for a damaged file; unsupported for models trained as "word" or "char", and for a folder that
/// states a class which makes something else of it.
std::string make_sentencepiece_tokenizer(const TokenizerFiles& files, const Json& config);

/// What the files say the beginning-of-sequence token is; that class's default when they say nothing.
std::optional<std::string> sentencepiece_bos(const TokenizerFiles& files);

}  // namespace moerge
