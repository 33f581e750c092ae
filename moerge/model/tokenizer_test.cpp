#include "moerge/model/tokenizer.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

using testing::TempDir;

std::string message_of(const std::filesystem::path& folder) {
  try {
    const Tokenizer tokenizer(folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Tokenizer, EncodesWithoutTheFilesTruncation) {
  const TempDir dir;
  testing::write_tiny_model(dir, "m", 1);
  const Tokenizer tokenizer(dir / "m");
  EXPECT_EQ(tokenizer.bos_token(), "<s>");
  EXPECT_EQ(tokenizer.encode("<s>abcabc"), (std::vector<int32_t>{0, 1, 2, 3, 1, 2, 3}));
  EXPECT_TRUE(tokenizer.encode("").empty());
  EXPECT_EQ(tokenizer.vocab_size(), 16);
  EXPECT_THROW(tokenizer.encode("\xff\xfe"), Error);
}

TEST(Tokenizer, ListsAndAddsTokens) {
  const TempDir dir;
  testing::write_tiny_model(dir, "m", 1);
  Tokenizer tokenizer(dir / "m");
  EXPECT_EQ(tokenizer.model_size(), 16);
  std::vector<Token> tokens = tokenizer.tokens();
  ASSERT_EQ(tokens.size(), 16u);
  EXPECT_EQ(tokens[0], (Token{.id = 0, .text = "<s>", .added = true, .special = true}));
  EXPECT_EQ(tokens[15], (Token{.id = 15, .text = "o"}));
  const std::vector<int32_t> ids = {0, 1, 2, 99, -1};
  EXPECT_EQ(tokenizer.decode(ids), "<s> a b");

  const std::string odd("a\0\xc3\xa9", 4);
  const std::vector<Token> more = {{.id = 7, .text = odd, .normalized = true, .rstrip = true},
                                   {.text = "c", .special = true, .lstrip = true},
                                   {.text = "ab"}};
  tokenizer.add_tokens(more);
  tokens = tokenizer.tokens();
  ASSERT_EQ(tokens.size(), 18u);
  EXPECT_EQ(tokens[3], (Token{.id = 3, .text = "c", .added = true, .special = true, .lstrip = true}));
  EXPECT_EQ(tokens[16], (Token{.id = 16, .text = odd, .added = true, .normalized = true, .rstrip = true}));
  EXPECT_EQ(tokens[17], (Token{.id = 17, .text = "ab", .added = true}));
  EXPECT_EQ(tokenizer.encode("abb"), (std::vector<int32_t>{17, 2}));
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{16}), odd);
  EXPECT_EQ(tokenizer.model_size(), 16);
  EXPECT_EQ(tokenizer.vocab_size(), 18);
}

TEST(Tokenizer, BosTokenInItsManySpellings) {
  const TempDir dir;
  dir.write("tokenizer.json", testing::kTinyTokenizer);
  EXPECT_FALSE(Tokenizer(dir.path()).bos_token());
  dir.write("special_tokens_map.json", R"({"bos_token": {"content": "a"}})");
  EXPECT_EQ(Tokenizer(dir.path()).bos_token(), "a");
  dir.write("tokenizer_config.json", R"({"bos_token": null})");
  EXPECT_FALSE(Tokenizer(dir.path()).bos_token());
  dir.write("tokenizer_config.json", R"({"bos_token": {"content": "b", "lstrip": false}})");
  EXPECT_EQ(Tokenizer(dir.path()).bos_token(), "b");
  dir.write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  dir.write("special_tokens_map.json", "{}");
  EXPECT_EQ(Tokenizer(dir.path()).bos_token(), "<s>");
  dir.write("tokenizer_config.json", R"({"bos_token": 5})");
  EXPECT_NE(message_of(dir.path()).find("should be a string"), std::string::npos);
}

TEST(Tokenizer, RefusesBrokenFiles) {
  const TempDir dir;
  EXPECT_NE(message_of(dir.path()).find("no tokenizer.json"), std::string::npos);
  dir.write("tokenizer.model", "x");
  EXPECT_NE(message_of(dir.path()).find("SentencePiece"), std::string::npos);
  for (const std::string& text :
       {std::string("{"), std::string("[]"), std::string("{}"), std::string("\xff"),
        std::string(1'000'000, '['),
        std::string(R"({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}})")}) {
    dir.write("tokenizer.json", text);
    EXPECT_NE(message_of(dir.path()).find("tokenizer.json: "), std::string::npos) << text.substr(0, 50);
  }
}

TEST(Tokenizer, CountsDifferences) {
  const TempDir dir;
  testing::write_tiny_model(dir, "a", 1);
  std::string other = testing::kTinyTokenizer;
  other.replace(other.find("\"o\": 15"), 7, "\"z\": 15");
  dir.write("b/tokenizer.json", other);
  const Tokenizer a(dir / "a"), b(dir / "b");
  EXPECT_EQ(a.difference(a).count, 0);
  EXPECT_EQ(a.difference(b).count, 2);
  EXPECT_EQ(a.difference(b).example, "o");
}

}  // namespace
}  // namespace moerge
