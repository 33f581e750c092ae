#include "moerge/model/tokenizer.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/base/json.h"
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

// The tokenizers library would take all the memory there is.
TEST(Tokenizer, RefusesFilesThatBlowUpTexts) {
  const auto message = [](const char* key, Json step) {
    Json json = parse_json(testing::kTinyTokenizer, "x");
    json[key] = std::move(step);
    try {
      const Tokenizer tokenizer(json.dump(), {}, "t.json");
      tokenizer.decode(tokenizer.encode("abc", true));
      return std::string();
    } catch (const Error& error) {
      return error.message();
    }
  };
  const auto several = [](const char* member, const Json& step, size_t count) {
    return Json{{"type", "Sequence"}, {member, Json::array_t(count, step)}};
  };
  const Json twice = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  const Json between = {
      {"type", "Replace"}, {"pattern", {{"Regex", "x?"}}}, {"content", std::string(1000, 'x')}};
  const Json letters = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json token = {{"SpecialToken", {{"id", "s"}, {"type_id", 0}}}};
  const auto edges = [&](const Json::array_t& single, size_t ids) {
    return Json{
        {"type", "TemplateProcessing"},
        {"single", single},
        {"pair", Json::array({text})},
        {"special_tokens",
         {{"s", {{"id", "s"}, {"ids", std::vector<int>(ids)}, {"tokens", std::vector<std::string>(ids)}}}}}};
  };
  const std::string longer = "times longer";
  EXPECT_EQ(message("normalizer", several("normalizers", twice, 9)), "");
  EXPECT_NE(message("normalizer", several("normalizers", twice, 40)).find(longer), std::string::npos);
  EXPECT_NE(message("normalizer", between).find(longer), std::string::npos);
  EXPECT_NE(message("pre_tokenizer", several("pretokenizers", letters, 40)).find(longer), std::string::npos);
  EXPECT_NE(message("decoder", several("decoders", twice, 40)).find(longer), std::string::npos);
  EXPECT_EQ(message("post_processor", edges({token, text}, 1)), "");
  EXPECT_NE(message("post_processor", several("processors", edges({text, text}, 1), 40)).find(longer),
            std::string::npos);
  EXPECT_NE(message("post_processor", edges(Json::array_t(2000, token), 2000)).find("4000000 tokens"),
            std::string::npos);
  EXPECT_NE(message("normalizer", several("normalizers", {{"type", "NFC"}}, 1000)).find("1001 steps"),
            std::string::npos);
  EXPECT_NE(
      message("normalizer", {{"type", "Prepend"}, {"prepend", std::string(20'000, 'x')}}).find("20000 bytes"),
      std::string::npos);
  // A table of 2^32 bytes that are not there.
  EXPECT_NE(
      message("normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "/////2EA"}}).find("cut off"),
      std::string::npos);
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

struct BosCase {
  const char *config, *map;
  std::optional<std::string> bos;
};
// AutoTokenizer of transformers 4.57 and 5 agree on them, but for what the last two rows say.
const BosCase kBosCases[] = {
    {R"({"bos_token": "b"})", "{}", "b"},
    {R"({"bos_token": {"content": "b", "lstrip": false}})", "{}", "b"},
    {"{}", R"({"bos_token": {"content": "a"}})", "a"},
    {R"({"bos_token": "b"})", R"({"bos_token": "a"})", "a"},
    {R"({"bos_token": null})", R"({"bos_token": "a"})", "a"},
    {R"({"bos_token": "b"})", R"({"bos_token": null})", {}},
    {R"({"bos_token": "b", "added_tokens_decoder": {}})", R"({"bos_token": "a"})", "b"},
    {R"({"bos_token": null, "tokenizer_class": "LlamaTokenizer"})", "{}", {}},
    {R"({"bos_token": ""})", "{}", ""},
    {R"({"tokenizer_class": "LlamaTokenizer"})", "{}", "<s>"},
    {R"({"tokenizer_class": "LlamaTokenizerFast", "added_tokens_decoder": {}})", R"({"bos_token": "a"})",
     "<s>"},
    {R"({"tokenizer_class": "CodeLlamaTokenizer"})", "{}", "<s>"},
    {R"({"tokenizer_class": "Qwen2Tokenizer"})", "{}", {}},
    {R"({"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"})", "{}", {}},
    // transformers would add a token that the model has no embedding for.
    {R"({"tokenizer_class": "GPT2Tokenizer"})", "{}", {}},
    // Version 4 takes the class from config.json, version 5 none.
    {R"({"added_tokens_decoder": {}})", R"({"bos_token": "a"})", {}}};

TEST(Tokenizer, BosTokenInItsManySpellings) {
  const TempDir dir;
  dir.write("tokenizer.json", testing::kTinyTokenizer);
  EXPECT_FALSE(Tokenizer(dir.path()).bos_token());
  for (const BosCase& c : kBosCases) {
    dir.write("tokenizer_config.json", c.config);
    dir.write("special_tokens_map.json", c.map);
    EXPECT_EQ(Tokenizer(dir.path()).bos_token(), c.bos) << c.config << c.map;
  }
  dir.write("special_tokens_map.json", "{}");
  dir.write("tokenizer_config.json", R"({"bos_token": 5})");
  EXPECT_NE(message_of(dir.path()).find("should be a string"), std::string::npos);
}

TEST(Tokenizer, BosTokenThatOnlyTheVocabularyHas) {
  const TempDir dir;
  Json json = parse_json(testing::kTinyTokenizer, "tokenizer.json");
  json["added_tokens"] = Json::array();
  dir.write("tokenizer.json", json.dump());
  EXPECT_NE(Tokenizer(dir.path()).encode("<s>ab"), (std::vector<int32_t>{0, 1, 2}));
  for (const char* config : {R"({"bos_token": "<s>"})", R"({"tokenizer_class": "LlamaTokenizer"})"}) {
    dir.write("tokenizer_config.json", config);
    const Tokenizer tokenizer(dir.path());
    EXPECT_EQ(tokenizer.bos_token(), "<s>") << config;
    EXPECT_EQ(tokenizer.encode("<s>ab"), (std::vector<int32_t>{0, 1, 2})) << config;
  }
}

// What save_pretrained of both versions wrote for one tokenizer with a beginning token that takes the spaces
// before it, and two extra ones; "added_tokens_decoder" shortened to what differs.
struct SavedTokenizer {
  const char *name, *config, *map;
};
const SavedTokenizer kSaved[] = {
    {"4.57.6, PreTrainedTokenizerFast",
     R"({"added_tokens_decoder": {"0": {"content": "<s>", "lstrip": true, "normalized": false, "rstrip": false,
         "single_word": false, "special": true}}, "additional_special_tokens": ["<|x|>", "<|y|>"],
         "bos_token": "<s>", "clean_up_tokenization_spaces": false, "eos_token": "</s>",
         "extra_special_tokens": {}, "model_max_length": 1000000000000000019884624838656,
         "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"})",
     R"({"additional_special_tokens": [{"content": "<|x|>", "lstrip": false, "normalized": false,
         "rstrip": false, "single_word": false}, {"content": "<|y|>", "lstrip": false, "normalized": false,
         "rstrip": false, "single_word": false}], "bos_token": {"content": "<s>", "lstrip": true,
         "normalized": false, "rstrip": false, "single_word": false}, "eos_token": "</s>",
         "unk_token": "<unk>"})"},
    {"5.23.0, the same",
     R"({"backend": "tokenizers", "bos_token": "<s>", "eos_token": "</s>",
         "extra_special_tokens": ["<|x|>", "<|y|>"], "model_max_length": 1000000000000000019884624838656,
         "tokenizer_class": "TokenizersBackend", "unk_token": "<unk>"})",
     nullptr},
    {"4.57.6, LlamaTokenizerFast",
     R"({"add_bos_token": true, "add_eos_token": false, "add_prefix_space": null, "added_tokens_decoder": {
         "1": {"content": "<s>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
         "special": true}}, "bos_token": "<s>", "clean_up_tokenization_spaces": false, "eos_token": "</s>",
         "extra_special_tokens": {}, "legacy": true, "model_max_length": 1000000000000000019884624838656,
         "pad_token": null, "sp_model_kwargs": {}, "spaces_between_special_tokens": false,
         "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>", "use_default_system_prompt": false})",
     R"({"bos_token": {"content": "<s>", "lstrip": false, "normalized": false, "rstrip": false,
         "single_word": false}, "eos_token": {"content": "</s>", "lstrip": false, "normalized": false,
         "rstrip": false, "single_word": false}})"},
    {"5.23.0, LlamaTokenizer",
     R"({"add_prefix_space": null, "backend": "tokenizers", "bos_token": "<s>",
         "clean_up_tokenization_spaces": false, "eos_token": "</s>", "extra_special_tokens": ["<s>", "</s>"],
         "is_local": true, "local_files_only": false, "model_max_length": 1000000000000000019884624838656,
         "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>", "use_default_system_prompt": false})",
     nullptr}};

TEST(Tokenizer, FilesOfBothVersionsOfTransformers) {
  for (const SavedTokenizer& saved : kSaved) {
    const TempDir dir;
    dir.write("tokenizer.json", testing::kTinyTokenizer);
    dir.write("tokenizer_config.json", saved.config);
    if (saved.map) dir.write("special_tokens_map.json", saved.map);
    const Tokenizer tokenizer(dir.path());
    EXPECT_EQ(tokenizer.bos_token(), "<s>") << saved.name;
    EXPECT_EQ(tokenizer.encode(*tokenizer.bos_token() + "abc"), (std::vector<int32_t>{0, 1, 2, 3}))
        << saved.name;
  }
}

TEST(Tokenizer, RefusesBrokenFiles) {
  const TempDir dir;
  EXPECT_NE(message_of(dir.path()).find("neither tokenizer.json nor tokenizer.model"), std::string::npos);
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
