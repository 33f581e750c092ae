#pragma once
// A model's tokenizer, opened so that tokens can be taken away and added, and the files of what that gives.

#include <string>
#include <utility>
#include <vector>

#include "moerge/model/hf_tokenizer.h"
#include "moerge/model/model.h"

namespace moerge {

class TokenizerEdit {
 public:
  /// As transformers' AutoTokenizer reads the model's folder (a tokenizer.model alone becomes what
  /// hf_tokenizer.h says), or a GGUF file's vocabulary. Throws input or unsupported.
  explicit TokenizerEdit(const Model& model);

  /// The whole vocabulary by ascending id, as it is now.
  const std::vector<Token>& tokens() const { return tokens_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }

  /// Drops the tokens whose ids are not below `rows`, and of a BPE the merges that use or make them. Tokens
  /// with a role (padding, ...) come back behind the others. Returns how many were dropped for good. Before
  /// add(). Throws unsupported for a tokenizer whose vocabulary cannot be cut.
  int64_t cut(int64_t rows);

  /// As transformers' add_tokens(): a token that is there keeps its id and gets these flags, others are
  /// numbered on from the end. Throws unsupported where that number is taken, for ids that leave gaps.
  void add(const std::vector<Token>& tokens);

  /// cut() or add() changed something.
  bool is_changed() const { return changed_; }

  struct Files {
    /// Name and content of the files that differ from the model's own; the model's are good otherwise.
    std::vector<std::pair<std::string, std::string>> changed;
    std::vector<std::string> dropped;  // the model's, but of another vocabulary
  };
  /// Empty lists when nothing changed. tokenizer.json and tokenizer_config.json keep every byte that does not
  /// concern the tokens. Throws unsupported when what would be written is read as another vocabulary.
  Files files() const;

 private:
  Tokenizer open(const Model& model);
  std::string make_tokenizer_json() const;
  bool is_gguf() const { return files_.folder.empty(); }
  void reload();

  std::string where_;
  TokenizerFiles files_;  // of a folder
  std::string json_;      // tokenizer.json
  std::string settings_;  // tokenizer_config.json; empty: none
  Json config_;           // the model's config.json
  std::optional<std::string> bos_;
  Tokenizer tokenizer_;
  std::vector<Token> tokens_;  // its tokens()
  bool changed_ = false, cut_ = false;
};

}  // namespace moerge
