#pragma once
// tokenizer.model: SentencePiece's protocol buffer
// (https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto).

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moerge {

enum class PieceType : int32_t { normal = 1, unknown, control, user_defined, unused, byte };

struct SentencePiece {
  std::string text;  // UTF-8, not empty
  float score = 0;
  PieceType type = PieceType::normal;
};

struct SentencePieceModel {
  std::vector<SentencePiece> pieces;  // at their ids
  bool merges = false;                // trained by merging pairs ("bpe"), as llama.cpp applies it
  bool unigram = true;                // trained as "unigram"; else one of "bpe", "word" and "char"
  std::string unknown = "<unk>";      // the piece for what has no other
};

/// More than any vocabulary; bounds what a number in a file can make this program allocate.
inline constexpr int64_t kMaxTokens = int64_t{1} << 22;

/// `where` starts every message. Throws input.
SentencePieceModel parse_sentencepiece_model(std::span<const std::byte> bytes, const std::string& where);

}  // namespace moerge
