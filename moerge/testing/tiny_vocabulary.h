#pragma once
// Tokenizer files of some hundred tokens for unit tests.

#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/json.h"

namespace moerge::testing {

/// GPT-2's letters for the 256 bytes, in the order of the bytes.
inline std::vector<std::string> byte_letters() {
  std::vector<std::string> letters;
  int extra = 256;
  for (int byte = 0; byte < 256; byte++) {
    const bool visible = (byte >= 33 && byte < 127) || (byte >= 161 && byte < 173) || byte >= 174;
    const int letter = visible ? byte : extra++;
    if (letter < 128)
      letters.emplace_back(1, static_cast<char>(letter));
    else
      letters.push_back({static_cast<char>(0xc0 | letter >> 6), static_cast<char>(0x80 | (letter & 0x3f))});
  }
  return letters;
}

inline Json byte_level(bool use_regex = true, bool add_prefix_space = false) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

inline Json split(std::string_view regex) {
  return {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
}

inline Json sequence(const std::vector<Json>& steps) {
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

inline Json added_token(int id, std::string_view text, bool special = true) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

/// A TemplateProcessing; "A" and "B" are the texts, all else special tokens.
inline Json post_template(const std::vector<std::string>& single, const std::vector<std::string>& pair) {
  Json special = Json::object();
  const auto parts = [&](const std::vector<std::string>& names) {
    Json list = Json::array();
    for (const std::string& name : names) {
      const bool text = name == "A" || name == "B";
      if (!text) special[name] = {{"id", name}, {"ids", Json::array({0})}, {"tokens", Json::array({name})}};
      list.push_back({{text ? "Sequence" : "SpecialToken", {{"id", name}, {"type_id", 0}}}});
    }
    return list;
  };
  Json out = {{"type", "TemplateProcessing"}, {"single", parts(single)}, {"pair", parts(pair)}};
  out["special_tokens"] = special;
  return out;
}

/// A tokenizer.json of a byte-level BPE: <unk>, <s> and </s> at 0 to 2, then the 256 bytes, then merges that
/// show how text is cut into words.
inline Json byte_level_tokenizer(const Json& pre_tokenizer) {
  const std::vector<std::pair<std::string, std::string>> merges = {
      {"t", "h"},  {"th", "e"},  {"Ġ", "the"}, {"3", "3"},  {"33", "3"},    {"333", "3"}, {"Ġ", "3"},
      {"Ġ", "Ġ"},  {"Ċ", "Ċ"},   {"'", "s"},   {"'", "R"},  {"'R", "E"},    {"'", "l"},   {"'l", "l"},
      {"'", "L"},  {"'L", "L"},  {"?", "?"},   {".", "."},  {"Ġ", "("},     {"(", "n"},   {"y", "3"},
      {"x", "2"},  {"Ġ", "ĠĠ"},  {"ĉ", "ĉ"},   {"ĉĉ", "r"}, {"_", "j"},     {"l", "C"},   {"P", "S"},
      {"a", "l"},  {"m", "al"},  {"o", "r"},   {"n", "or"}, {"nor", "mal"}, {"Ġ", "h"},   {"Ġh", "e"},
      {"\"", "."}, {"\".", "Ċ"}, {")", "Ċ"},   {"/", "/"},  {"Ċ", "}"}};
  Json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  int id = 3;
  for (const std::string& letter : byte_letters()) vocab[letter] = id++;
  Json list = Json::array();
  for (const auto& [left, right] : merges) {
    if (!vocab.contains(left + right)) vocab[left + right] = id++;
    list.push_back(Json::array({left, right}));
  }
  Json model = {{"type", "BPE"},     {"dropout", nullptr},     {"unk_token", nullptr},
                {"fuse_unk", false}, {"byte_fallback", false}, {"ignore_merges", false},
                {"vocab", vocab},    {"merges", list}};
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", Json::array({added_token(0, "<unk>"), added_token(1, "<s>"), added_token(2, "</s>")})},
      {"normalizer", nullptr},
      {"pre_tokenizer", pre_tokenizer},
      {"post_processor", nullptr},
      {"decoder", byte_level()},
      {"model", model}};
}

struct TinyPiece {
  std::string text;
  float score;
  int type;  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
};

/// "t" and "h" merge to "th", and so on.
inline std::vector<TinyPiece> tiny_pieces() {
  std::vector<TinyPiece> pieces = {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}};
  constexpr const char* kHex = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; byte++)
    pieces.push_back({std::string("<0x") + kHex[byte >> 4] + kHex[byte & 15] + ">", 0, 6});
  float score = 0;
  for (const char* text : {"th", "the", "▁the", "▁t", "he", "▁", "t", "h", "e", "s", "a"})
    pieces.push_back({text, score--, 1});
  return pieces;
}

inline std::string protobuf_varint(uint64_t value) {
  std::string out;
  for (; value > 127; value >>= 7) out += static_cast<char>(value | 128);
  return out + static_cast<char>(value);
}

inline std::string protobuf_bytes(int field, std::string_view bytes) {
  return protobuf_varint(static_cast<uint64_t>(field) << 3 | 2) + protobuf_varint(bytes.size()) +
         std::string(bytes);
}

/// tokenizer.model; `merges`: trained as BPE, else as a unigram model.
inline std::string sentencepiece_bytes(const std::vector<TinyPiece>& pieces, bool merges = true) {
  std::string out;
  for (const TinyPiece& piece : pieces) {
    std::string message = protobuf_bytes(1, piece.text) + protobuf_varint(2 << 3 | 5);
    std::array<char, 4> score = {};
    std::memcpy(score.data(), &piece.score, sizeof(piece.score));
    message.append(score.data(), score.size());
    if (piece.type != 1)
      message += protobuf_varint(3 << 3) + protobuf_varint(static_cast<uint64_t>(piece.type));
    out += protobuf_bytes(1, message);
  }
  return out + protobuf_bytes(2, protobuf_varint(3 << 3) + protobuf_varint(merges ? 2 : 1));
}

}  // namespace moerge::testing
