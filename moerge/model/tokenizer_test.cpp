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
