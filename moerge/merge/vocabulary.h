#pragma once
// The vocabulary of a merge: which tokens the result has, which row of each model belongs to each of them,
// and its tokenizer's files.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/merge/tokenizer_settings.h"
#include "moerge/model/model.h"

namespace moerge {

struct VocabularyModel {
  std::string reference;  // as the YAML has it
  const Model* model;
  int64_t rows;        // of its embeddings
  bool merged = true;  // false: only the tokenizer settings name it, and its tokens are in no union
};

/// A row of one model's by-token tensors; models count as in MergedVocabulary::models.
struct TokenRow {
  int32_t model, row;
  bool operator==(const TokenRow&) const = default;
};

/// What the settings say of a token.
struct AssignedRow {
  std::optional<TokenRow> row;  // empty: zeros
  bool force = false;           // for models that have the token too
};

struct MergedVocabulary {
  std::vector<VocabularyModel> models;
  std::optional<size_t> base;  // of them, if the merge has a base
  int64_t tokens = 0;          // ids that the tokenizer gives are below this
  int64_t rows = 0;            // of the result's by-token tensors: `tokens`, padded
  /// For each model and each id below `tokens`: its own row, or -1 where it has none. Models may share them.
  std::vector<std::shared_ptr<const std::vector<int32_t>>> own_rows;
  std::vector<bool> used;  // by id: false where ids have a gap; such rows are filled like the padding
  std::map<int64_t, AssignedRow> assigned;  // by id

  const Model* tokenizer_model = nullptr;  // whose files the result's are, but for these:
  std::vector<std::pair<std::string, std::string>> changed_files;  // name, content
  std::vector<std::string> dropped_files;
  /// Members of the base's config.json that have to be others: the vocabulary's size, token ids.
  Json config_changes = Json::object();
  std::vector<std::string> warnings;

  /// The token's text, for messages; of several with one id one of them.
  std::string text_of(int64_t id) const;
  std::shared_ptr<const std::vector<std::string>> texts;  // by id
};

/// `base_reference` empty: the merge has no base, and the first model's tokens come first. A model without a
/// tokenizer is taken to have the base's tokens. Throws config with every problem of the settings, one a
/// line; input and unsupported for tokenizers that cannot be read or changed.
MergedVocabulary merge_vocabularies(const TokenizerSettings& settings, const std::string& base_reference,
                                    const std::vector<VocabularyModel>& models);

/// Puts the tokenizer's files into a folder that is being made, with chat templates and generation settings,
/// as write_tokenizer_files() does.
void write_merged_tokenizer(const MergedVocabulary& vocabulary, const std::filesystem::path& folder,
                            const std::string* chat_template = nullptr);

}  // namespace moerge
