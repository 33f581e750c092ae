#include "moerge/engine/llama_vocabulary.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"

namespace moerge {
namespace {

using Ids = std::vector<int32_t>;

// "a", "b", their merge, a special token, and the letter that stands for a space.
GgufMetadata tiny() {
  GgufMetadata metadata;
  metadata.set("tokenizer.ggml.model", std::string("gpt2"));
  metadata.set("tokenizer.ggml.pre", std::string("gpt-2"));
  metadata.set("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "ab", "<s>", "Ġ"});
  metadata.set("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1, 1, 3, 1});
  metadata.set("tokenizer.ggml.merges", std::vector<std::string>{"a b"});
  metadata.set("tokenizer.ggml.bos_token_id", uint32_t{3});
  metadata.set("tokenizer.chat_template", std::string("not looked at"));
  metadata.set("general.name", int64_t{5});
  return metadata;
}

std::string message_of(const GgufMetadata& metadata) {
  try {
    const LlamaVocabulary vocabulary(metadata);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(LlamaVocabulary, Tokenises) {
  const LlamaVocabulary vocabulary(tiny());
  EXPECT_EQ(vocabulary.tokenize("abba ab<s>b"), (Ids{2, 1, 0, 4, 2, 3, 1}));
  EXPECT_TRUE(vocabulary.tokenize("").empty());
  EXPECT_EQ(vocabulary.tokenize(std::string(5000, 'a')).size(), 5000u);
  EXPECT_THROW(vocabulary.tokenize(std::string(100'000, 'a')), Error);
  vocabulary.tokenize("\xff\xfe a");
  EXPECT_FALSE(vocabulary.adds_bos());
  GgufMetadata metadata = tiny();
  metadata.set("tokenizer.ggml.add_bos_token", true);
  const LlamaVocabulary with_bos(metadata);
  EXPECT_TRUE(with_bos.adds_bos());
  EXPECT_EQ(with_bos.tokenize("a"), Ids{0});
}

TEST(LlamaVocabulary, SaysWhatLlamaCppSays) {
  GgufMetadata metadata = tiny();
  metadata.erase("tokenizer.ggml.merges");
  EXPECT_EQ(message_of(metadata),
            "llama.cpp refuses the vocabulary: cannot find tokenizer merges in model file");
  metadata = tiny();
  metadata.set("tokenizer.ggml.pre", std::string("no-such"));
  EXPECT_EQ(message_of(metadata), "llama.cpp refuses the vocabulary: unknown pre-tokenizer type: 'no-such'");
  metadata = tiny();
  metadata.set("tokenizer.ggml.token_type", std::vector<int32_t>{1});
  EXPECT_NE(message_of(metadata).find("out of array bounds"), std::string::npos);
  metadata = tiny();
  metadata.set("tokenizer.ggml.tokens", 5.0);
  EXPECT_NE(message_of(metadata), "");
  EXPECT_NE(message_of(GgufMetadata()), "");
}

// Each of these would end the process inside llama.cpp.
TEST(LlamaVocabulary, RefusesWhatLlamaCppAbortsOn) {
  GgufMetadata metadata = tiny();
  metadata.set("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "ab", "<s>", "b"});
  EXPECT_EQ(message_of(metadata), "tokens 1 and 4 would both read \"b\", which llama.cpp does not take");
  metadata.set("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "ab", "[EMPTY_4]", ""});
  EXPECT_NE(message_of(metadata).find("tokens 3 and 4"), std::string::npos);
  metadata.set("tokenizer.ggml.tokens",
               std::vector<std::string>{"a", "b", "ab", std::string("x\0y", 3), std::string("x\0z", 3)});
  EXPECT_NE(message_of(metadata).find("tokens 3 and 4"), std::string::npos);
  metadata = tiny();
  metadata.set("tokenizer.ggml.pre", std::string("whitespace"));
  EXPECT_NE(message_of(metadata), "");
}

}  // namespace
}  // namespace moerge
