#pragma once
// What a GGUF says about special tokens, chat templates and normalisation, read from the tokenizer files as
// SpecialVocab in llama.cpp's gguf-py/gguf/vocab.py reads them.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moerge/formats/gguf.h"
#include "moerge/model/hf_tokenizer.h"

namespace moerge {

struct SpecialTokens {
  std::vector<std::pair<std::string, int64_t>> ids;  // "bos" -> 1
  std::vector<std::pair<std::string, bool>> added;   // "bos" -> whether one is put in front of a text
  Json chat_template;                                // a string, a list of {"name", "template"}, or null
  std::optional<bool> lowercase, strip_accents;
};

/// The roles that are looked for unless others are asked for.
inline constexpr std::string_view kSpecialRoles[] = {"bos", "eos", "unk", "sep", "pad", "cls", "mask"};

/// `config` is the model's config.json, `vocab_size` the number of tokens that the file will have. Ids
/// outside it are left out, with a warning.
SpecialTokens read_special_tokens(const TokenizerFiles& files, const Json& config,
                                  std::span<const std::string_view> roles, int64_t vocab_size,
                                  std::vector<std::string>& warnings);

/// The id of a role, unless it has one or `id` is outside the vocabulary.
void set_special_token(SpecialTokens& tokens, std::string_view role, int64_t id, int64_t vocab_size);

void add_special_tokens(GgufMetadata& metadata, const SpecialTokens& tokens,
                        std::vector<std::string>& warnings);

/// "tokenizer.ggml.merges": each "LEFT RIGHT", a space inside a part written as U+0120.
std::vector<std::string> read_merges(const TokenizerFiles& files);

}  // namespace moerge
