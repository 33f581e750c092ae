#pragma once
// The tokenizer of a model, wherever it comes from: files of its folder, or what its GGUF file says.

#include <filesystem>
#include <optional>
#include <string>

#include "moerge/model/model.h"
#include "moerge/model/tokenizer.h"

namespace moerge {

/// True when the model brings a tokenizer that the tokenizers library can read (its kind may still be
/// unknown).
bool has_tokenizer(const Model& model);

/// Throws input or unsupported.
Tokenizer read_tokenizer(const Model& model);

/// The text of the end-of-sequence token that the model's files state, if they do. Throws input.
std::optional<std::string> find_eos_token(const Model& model);

/// True when the files that both models' tokens come from hold the same bytes; false where that takes more
/// than a look.
bool same_tokenizer_file(const Model& a, const Model& b);

/// Puts tokenizer, chat templates and generation settings into a folder that is being made: a folder's files
/// byte for byte, those of a GGUF file generated. Writes nothing for a GGUF file without a vocabulary.
/// `chat_template`: this one instead of all that the model brings, in tokenizer_config.json alone.
void write_tokenizer_files(const Model& model, const std::filesystem::path& folder,
                           const std::string* chat_template = nullptr);

}  // namespace moerge
