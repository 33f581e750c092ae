#pragma once
// The tokenizer's metadata of a GGUF.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/formats/gguf.h"

namespace moerge {

struct VocabularyOptions {
  std::string pre = {};  // llama.cpp's name of the pre-tokenizer; empty: recognise it
  std::optional<std::string> chat_template = {};  // instead of the tokenizer's own
};

/// Adds the keys "tokenizer.*" for the tokenizer files of `folder`, as llama.cpp's converter (conversion/ and
/// gguf-py/ of commit 0c1e57098bba) writes them for the model_type of `config`, the model's config.json
/// ("vocab_size", the rows of the embeddings, filled in where a class's default counts). Beyond the
/// converter: a byte-level BPE whose pre-tokenizer it does not know is recognised by its structure and by
/// tokenising texts with llama.cpp itself, and what llama.cpp would not load is refused.
///
/// Returns warnings. Throws input for damaged files, unsupported for a tokenizer that llama.cpp has no way to
/// run, usage for an unknown options.pre.
std::vector<std::string> add_vocabulary(GgufMetadata& metadata, const std::filesystem::path& folder,
                                        const Json& config, const VocabularyOptions& options);

}  // namespace moerge
