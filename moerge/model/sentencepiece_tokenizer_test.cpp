#include "moerge/model/sentencepiece_tokenizer.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/model/tokenizer_files.h"
#include "moerge/testing/tiny_model.h"
#include "moerge/testing/tiny_vocabulary.h"

namespace moerge {
namespace {

using testing::TempDir;
using Ids = std::vector<int32_t>;

// th, the, ▁the, ▁t, he, ▁, t, h, e, s, a from 259 on; three pieces of spaces have one score.
std::vector<testing::TinyPiece> pieces() {
  std::vector<testing::TinyPiece> all = testing::tiny_pieces();
  all.push_back({"<ctl>", 0, 3});
  all.push_back({"[X]", 0, 4});
  for (const char* spaces : {"▁▁", "▁▁▁", "▁▁▁▁"}) all.push_back({spaces, -20, 1});
  return all;
}

struct Folder {
  bool merges;
  const char *config, *map, *added;
};

Tokenizer open(const TempDir& dir, const Folder& folder) {
  dir.write("tokenizer.model", testing::sentencepiece_bytes(pieces(), folder.merges));
  dir.write("tokenizer_config.json", folder.config);
  dir.write("special_tokens_map.json", folder.map);
  dir.write("added_tokens.json", folder.added);
  return Tokenizer(dir.path());
}

std::string message_of(const TempDir& dir) {
  try {
    const Tokenizer tokenizer(dir.path());
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

constexpr std::array kTexts = {"the",    "  the sea", "<s>the",     "<s> the é</s>a", "[X]the <ctl> the",
                               "     a", "a<unk>the", "<x>the<y> w"};

// What AutoTokenizer of transformers 4.57.6 made of the same folders.
struct Reference {
  const char* name;
  Folder folder;
  const char* bos;
  int64_t size;
  Ids special;  // of "the", with what is added to every text
  std::array<Ids, kTexts.size()> ids;
};
const Reference kReferences[] = {
    {"merges",
     {true, R"({"tokenizer_class": "LlamaTokenizer"})", "{}", "{}"},
     "<s>",
     275,
     {1, 261},
     {{{261},
       {272, 261, 264, 268, 267, 269},
       {1, 261},
       {1, 264, 261, 264, 198, 172, 2, 264, 269},
       {271, 261, 264, 270, 264, 261},
       {274, 272, 269},
       {264, 269, 0, 261},
       {264, 63, 123, 65, 260, 63, 124, 65, 264, 122}}}},
    {"not legacy",
     {true, R"({"tokenizer_class": "LlamaTokenizer", "legacy": false})", "{}", "{}"},
     "<s>",
     275,
     {1, 261},
     {{{261},
       {264, 261, 264, 268, 267, 269},
       {1, 260},
       {1, 261, 264, 198, 172, 2, 269},
       {271, 260, 264, 270, 261},
       {274, 264, 269},
       {264, 269, 0, 260},
       {264, 63, 123, 65, 260, 63, 124, 65, 264, 122}}}},
    {"no space in front",
     {true, R"({"tokenizer_class": "LlamaTokenizer", "legacy": false, "add_prefix_space": false})", "{}",
      "{}"},
     "<s>",
     275,
     {1, 260},
     {{{260},
       {264, 261, 264, 268, 267, 269},
       {1, 260},
       {1, 261, 264, 198, 172, 2, 269},
       {271, 260, 264, 270, 261},
       {274, 264, 269},
       {269, 0, 260},
       {63, 123, 65, 260, 63, 124, 65, 264, 122}}}},
    {"added_tokens_decoder",
     {true, R"({"tokenizer_class": "LlamaTokenizerFast", "eos_token": "<y>", "added_tokens_decoder": {
        "275": {"content": "<x>", "lstrip": false, "rstrip": true, "normalized": false, "single_word": false,
                "special": true},
        "276": {"content": "<y>", "lstrip": true, "rstrip": false, "normalized": false, "single_word": false,
                "special": true}}})",
      "{}", "{}"},
     "<s>",
     277,
     {1, 261},
     {{{261},
       {272, 261, 264, 268, 267, 269},
       {1, 261},
       {1, 264, 261, 264, 198, 172, 2, 264, 269},
       {271, 261, 264, 270, 264, 261},
       {274, 272, 269},
       {264, 269, 0, 261},
       {275, 261, 276, 272, 122}}}},
    {"older files",
     {true, R"({"tokenizer_class": "LlamaTokenizer"})",
      R"({"additional_special_tokens": ["<x>"], "bos_token": "<x>"})", R"({"<y>": 276, "<x>": 275})"},
     "<x>",
     277,
     {275, 261},
     {{{261},
       {272, 261, 264, 268, 267, 269},
       {1, 261},
       {1, 264, 261, 264, 198, 172, 2, 264, 269},
       {271, 261, 264, 270, 264, 261},
       {274, 272, 269},
       {264, 269, 0, 261},
       {275, 261, 63, 124, 65, 264, 122}}}},
    {"unigram",
     {false, R"({"tokenizer_class": "LlamaTokenizer"})", "{}", "{}"},
     "<s>",
     275,
     {1, 261},
     {{{261},
       {264, 264, 261, 264, 268, 267, 269},
       {1, 261},
       {1, 264, 261, 264, 198, 172, 2, 264, 269},
       {271, 261, 264, 270, 264, 261},
       {264, 264, 274, 269},
       {264, 269, 0, 261},
       {264, 63, 123, 65, 260, 63, 124, 65, 264, 122}}}}};

TEST(SentencePieceTokenizer, HasTheIdsOfTransformers) {
  for (const Reference& reference : kReferences) {
    const TempDir dir;
    const Tokenizer tokenizer = open(dir, reference.folder);
    EXPECT_EQ(tokenizer.bos_token(), reference.bos) << reference.name;
    EXPECT_EQ(tokenizer.vocab_size(), reference.size) << reference.name;
    EXPECT_EQ(tokenizer.model_size(), 275) << reference.name;
    for (size_t i = 0; i < kTexts.size(); i++)
      EXPECT_EQ(tokenizer.encode(kTexts[i]), reference.ids[i]) << reference.name << ": " << kTexts[i];
    if (reference.special.front() < 275) {
      EXPECT_EQ(tokenizer.encode("the", true), reference.special);
    }
  }
}

TEST(SentencePieceTokenizer, EndsThatATextGets) {
  const TempDir dir;
  const auto encode = [&](const char* config) {
    return open(dir, {true, config, "{}", "{}"}).encode("the", true);
  };
  EXPECT_EQ(encode(R"({"add_bos_token": false})"), (Ids{261}));
  EXPECT_EQ(encode(R"({"add_bos_token": false, "add_eos_token": true})"), (Ids{261, 2}));
  EXPECT_EQ(encode(R"({"add_eos_token": true, "eos_token": "<ctl>"})"), (Ids{1, 261, 270}));
  EXPECT_EQ(encode(R"({"bos_token": {"content": "</s>"}})"), (Ids{2, 261}));
  EXPECT_EQ(encode(R"({"bos_token": null})"), (Ids{261}));
}

// transformers 4 writes null where nothing was said, and then reads it as false; version 5 and SentencePiece
// itself put a space in front all the same.
TEST(SentencePieceTokenizer, NullIsUnsaid) {
  const TempDir dir;
  const Folder folder = {true, R"({"add_prefix_space": null, "legacy": true, "pad_token": null})", "{}",
                         "{}"};
  EXPECT_EQ(open(dir, folder).encode("the"), (Ids{261}));
}

TEST(SentencePieceTokenizer, NeedsNoOtherFile) {
  const TempDir dir;
  dir.write("tokenizer.model", testing::sentencepiece_bytes(pieces()));
  const Tokenizer tokenizer(dir.path());
  EXPECT_EQ(tokenizer.bos_token(), "<s>");
  EXPECT_EQ(tokenizer.encode("<s>the sea"), (Ids{1, 261, 264, 268, 267, 269}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("the sea é")), "the sea é");
}

TEST(SentencePieceTokenizer, OtherClassesAreRefused) {
  const TempDir dir;
  dir.write("tokenizer.model", testing::sentencepiece_bytes(pieces()));
  dir.write("tokenizer_config.json", R"({"tokenizer_class": "GemmaTokenizerFast"})");
  EXPECT_NE(message_of(dir).find("for the class \"GemmaTokenizer\"; \"LlamaTokenizer\" is known"),
            std::string::npos);
  dir.write("tokenizer_config.json", "{}");
  dir.write("config.json", R"({"tokenizer_class": "T5Tokenizer"})");
  EXPECT_NE(message_of(dir).find("\"T5Tokenizer\""), std::string::npos);
  dir.write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  EXPECT_EQ(message_of(dir), "");
}

TEST(SentencePieceTokenizer, RefusesDamagedFiles) {
  const TempDir dir;
  const auto refused = [&](const std::string& bytes) {
    dir.write("tokenizer.model", bytes);
    return message_of(dir);
  };
  EXPECT_NE(refused("x").find("tokenizer.model: "), std::string::npos);
  EXPECT_NE(refused("").find("no pieces"), std::string::npos);
  std::vector<testing::TinyPiece> twice = pieces();
  twice.push_back({"the", -30, 1});
  EXPECT_NE(refused(testing::sentencepiece_bytes(twice)).find("the piece \"the\" is there twice"),
            std::string::npos);
  std::vector<testing::TinyPiece> long_piece = pieces();
  long_piece.push_back({std::string(5000, 'a'), -30, 1});
  EXPECT_NE(refused(testing::sentencepiece_bytes(long_piece)).find("has 5000 bytes"), std::string::npos);
  const std::string words = testing::sentencepiece_bytes(pieces()) +
                            testing::protobuf_bytes(2, testing::protobuf_varint(3 << 3) + "\x03");
  EXPECT_NE(refused(words).find("whole words or single characters"), std::string::npos);
  dir.write("tokenizer_config.json", R"({"legacy": "no"})");
  EXPECT_NE(refused(testing::sentencepiece_bytes(pieces())).find("\"legacy\" should be true or false"),
            std::string::npos);
  // Whatever is cut off: an error or a tokenizer, never anything worse.
  dir.write("tokenizer_config.json", "{}");
  const std::string whole = testing::sentencepiece_bytes(testing::tiny_pieces());
  for (size_t length = 0; length < whole.size(); length += 97) refused(whole.substr(0, length));
}

TEST(SentencePieceTokenizer, ModelFoldersHaveATokenizer) {
  const TempDir dir;
  for (const char* name : {"a", "b"}) {
    testing::write_tiny_model(dir, name, 1);
    std::filesystem::remove(dir / name / "tokenizer.json");
  }
  const Model a("a", {dir / "a"}), b("b", {dir / "b"});
  EXPECT_FALSE(has_tokenizer(a));
  EXPECT_FALSE(same_tokenizer_file(a, b));
  for (const char* name : {"a/tokenizer.model", "b/tokenizer.model"})
    dir.write(name, testing::sentencepiece_bytes(pieces()));
  EXPECT_TRUE(has_tokenizer(a));
  EXPECT_TRUE(same_tokenizer_file(a, b));
  EXPECT_EQ(read_tokenizer(a).encode("the"), (Ids{261}));
  EXPECT_EQ(read_tokenizer(a).difference(read_tokenizer(b)).count, 0);
  dir.write("b/added_tokens.json", R"({"<y>": 275})");
  EXPECT_FALSE(same_tokenizer_file(a, b));
  EXPECT_EQ(read_tokenizer(a).difference(read_tokenizer(b)).count, 1);
}

}  // namespace
}  // namespace moerge
