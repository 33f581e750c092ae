#pragma once
// Parts of a tokenizer.json that is made rather than read: for vocabularies of GGUF files and of
// SentencePiece.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/json.h"

namespace moerge {

inline constexpr std::string_view kPieceSpace = "\u2581";  // how SentencePiece writes a space
inline constexpr int64_t kMaxTokenizerText = 256 << 20;    // of a tokenizer.json, read or made

/// Everything but `added_tokens` and the version is null, the order that of the tokenizers library.
Json tokenizer_document(Json added_tokens);

/// One entry of "added_tokens": found in the raw text before anything else.
Json added_token_json(size_t id, std::string_view text, bool special);

Json bpe_json(Json vocab, Json merges);

/// A token that is put in front of or behind every text.
struct EdgeToken {
  std::string text;
  size_t id = 0;
};

/// A TemplateProcessing with these ends; null: none at that end.
Json edges_json(const EdgeToken* first, const EdgeToken* last);

/// The normaliser and decoder of Llama's family, in `document`: spaces become U+2581, one is put in front.
void set_piece_spaces(Json& document, bool add_space);

/// Pieces at their ids, for find_merges().
struct ScoredPieces {
  std::span<const std::string> texts;
  std::span<const float> scores;  // empty: all 0
  std::vector<bool> absent;       // no piece at this id
  std::vector<bool> whole;        // a piece, but never made of others
};

/// Which of two merges with equal scores comes first: that of the lower id, then with the longer left half;
/// or as transformers 4 sorts (convert_slow_tokenizer.py): the longer left half, the longer right half, the
/// lower id. They differ only where scores repeat.
enum class MergeTies { by_id, by_length };

/// "merges" of a BPE: every way to make a piece of two others, the best score first, as transformers
/// reconstructs them. Throws input, starting with `where`, for pieces that no training makes.
Json::array_t find_merges(const ScoredPieces& pieces, MergeTies ties, const std::string& where);

/// Throws input when a text in it is not UTF-8 or it is longer than kMaxTokenizerText.
std::string dump_tokenizer_json(const Json& json, int indent, const std::string& where);

}  // namespace moerge
