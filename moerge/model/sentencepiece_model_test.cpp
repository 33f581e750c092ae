#include "moerge/model/sentencepiece_model.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/testing/tiny_vocabulary.h"

namespace moerge {
namespace {

using testing::protobuf_bytes;
using testing::protobuf_varint;

SentencePieceModel parse(const std::string& bytes) {
  return parse_sentencepiece_model(std::as_bytes(std::span(bytes)), "tokenizer.model");
}

std::string message_of(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string piece(const std::string& message) { return protobuf_bytes(1, message); }

TEST(SentencePieceModel, PiecesScoresAndTypes) {
  const SentencePieceModel model = parse(testing::sentencepiece_bytes(
      {{"<unk>", 0, 2}, {"▁the", -1.5f, 1}, {"<0x0A>", 0, 6}, {"a", -2, 4}, {"b", 0, 5}, {"</s>", 0, 3}}));
  ASSERT_EQ(model.pieces.size(), 6u);
  EXPECT_EQ(model.pieces[0].type, PieceType::unknown);
  EXPECT_EQ(model.pieces[1].text, "▁the");
  EXPECT_EQ(model.pieces[1].score, -1.5f);
  EXPECT_EQ(model.pieces[1].type, PieceType::normal);
  EXPECT_EQ(model.pieces[2].type, PieceType::byte);
  EXPECT_EQ(model.pieces[3].type, PieceType::user_defined);
  EXPECT_EQ(model.pieces[4].type, PieceType::unused);
  EXPECT_EQ(model.pieces[5].type, PieceType::control);
  EXPECT_TRUE(model.merges);
  EXPECT_FALSE(model.unigram);
  EXPECT_EQ(model.unknown, "<unk>");
  const SentencePieceModel other = parse(testing::sentencepiece_bytes({{"a", 0, 1}}, false) +
                                         protobuf_bytes(2, protobuf_varint(45 << 3 | 2) + "\x03[U]"));
  EXPECT_FALSE(other.merges);
  EXPECT_TRUE(other.unigram);
  EXPECT_EQ(other.unknown, "[U]");
}

TEST(SentencePieceModel, SkipsWhatItDoesNotKnow) {
  const std::string unknown = protobuf_varint(99 << 3) + protobuf_varint(UINT64_MAX) +
                              protobuf_varint(98 << 3 | 1) + std::string(8, 'x') +
                              protobuf_varint(97 << 3 | 5) + std::string(4, 'x') + protobuf_bytes(96, "abc");
  const SentencePieceModel model =
      parse(unknown + piece(unknown + protobuf_bytes(1, "a") + unknown) + unknown);
  ASSERT_EQ(model.pieces.size(), 1u);
  EXPECT_EQ(model.pieces[0].text, "a");
  // A type from the future is an ordinary piece; a repeated field counts the last time.
  const std::string late =
      protobuf_bytes(1, "b") + protobuf_bytes(1, "c") + protobuf_varint(3 << 3) + protobuf_varint(77);
  EXPECT_EQ(parse(piece(late)).pieces[0].text, "c");
  EXPECT_EQ(parse(piece(late)).pieces[0].type, PieceType::normal);
}

TEST(SentencePieceModel, RefusesBrokenFiles) {
  EXPECT_NE(message_of("").find("no pieces"), std::string::npos);
  EXPECT_NE(message_of("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").find("within a field"),
            std::string::npos);
  EXPECT_NE(message_of(std::string(11, '\xff')).find("longer than 64 bits"), std::string::npos);
  EXPECT_NE(message_of(std::string("\x08") + std::string(9, '\xff') + "\x02").find("longer than 64 bits"),
            std::string::npos);
  EXPECT_NE(message_of(std::string("\x00\x01", 2)).find("number 0"), std::string::npos);
  EXPECT_NE(message_of("\x0b").find("unknown kind"), std::string::npos);
  EXPECT_NE(message_of(piece("")).find("piece 0 has no text"), std::string::npos);
  EXPECT_NE(message_of(piece(protobuf_bytes(1, "\xed\xa0\x80"))).find("not UTF-8"), std::string::npos);
  EXPECT_NE(message_of(testing::sentencepiece_bytes({{"a", INFINITY, 1}})).find("no finite score"),
            std::string::npos);
  EXPECT_NE(message_of("{\"version\": \"1.0\"}"), "");
  const std::string whole = testing::sentencepiece_bytes(testing::tiny_pieces());
  for (size_t length = 0; length < whole.size(); length++) message_of(whole.substr(0, length));
}

TEST(SentencePieceModel, BoundsTheNumberOfPieces) {
  std::string bytes;
  const std::string one = piece(protobuf_bytes(1, "a"));
  for (int64_t i = 0; i <= kMaxTokens; i++) bytes += one;
  EXPECT_NE(message_of(bytes).find("more than 4194304 pieces"), std::string::npos);
}

}  // namespace
}  // namespace moerge
