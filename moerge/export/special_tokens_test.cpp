#include "moerge/export/special_tokens.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/testing/temp_dir.h"
#include "moerge/testing/tiny_vocabulary.h"

namespace moerge {
namespace {

using testing::post_template;
using testing::TempDir;
using Ids = std::vector<std::pair<std::string, int64_t>>;
using Added = std::vector<std::pair<std::string, bool>>;

TokenizerFiles files_of(Json tokenizer_config, const Json& post_processor = nullptr) {
  TokenizerFiles files;
  files.tokenizer = testing::byte_level_tokenizer(testing::byte_level());
  files.tokenizer["post_processor"] = post_processor;
  files.tokenizer_config = std::move(tokenizer_config);
  return files;
}

SpecialTokens read(const TokenizerFiles& files, const Json& config = Json::object()) {
  std::vector<std::string> warnings;
  SpecialTokens tokens = read_special_tokens(files, config, kSpecialRoles, 300, warnings);
  EXPECT_TRUE(warnings.empty()) << warnings.front();
  return tokens;
}

const Json kNames = {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}};

TEST(SpecialTokens, IdsByTextThenFromConfig) {
  const Json config = {{"bos_token_id", 7},    {"eos_token_id", {1, 2}},
                       {"pad_token_id", 5},    {"sep_token_id", nullptr},
                       {"mask_token_id", 2.0}, {"text_config", {{"sep_token_id", 4}}}};
  EXPECT_EQ(read(files_of(kNames), config).ids,
            (Ids{{"bos", 1}, {"eos", 2}, {"unk", 0}, {"sep", 4}, {"pad", 5}}));
  // A text that is no added token has no id there; an object stands for its content.
  const Json others = {
      {"bos_token", "x"}, {"eos_token", {{"content", "<s>"}}}, {"unk_token", 5}, {"pad_token", nullptr}};
  EXPECT_EQ(read(files_of(others), config).ids, (Ids{{"eos", 1}, {"bos", 7}, {"sep", 4}, {"pad", 5}}));
  EXPECT_EQ(read(files_of(Json::object()), config).ids, (Ids{{"bos", 7}, {"sep", 4}, {"pad", 5}}));
}

TEST(SpecialTokens, IdsOutsideTheVocabularyAreLeftOut) {
  TokenizerFiles files = files_of(kNames);
  files.tokenizer["added_tokens"].push_back(testing::added_token(1'000'000'000, "<far>"));
  files.tokenizer_config["pad_token"] = "<far>";
  std::vector<std::string> warnings;
  const Json config = {{"pad_token_id", -1},
                       {"mask_token_id", 300},
                       {"sep_token_id", 18446744073709551615ull},
                       {"cls_token_id", 299}};
  EXPECT_EQ(read_special_tokens(files, config, kSpecialRoles, 300, warnings).ids,
            (Ids{{"bos", 1}, {"eos", 2}, {"unk", 0}, {"cls", 299}}));
  ASSERT_EQ(warnings.size(), 4u);
  EXPECT_EQ(warnings[0], "tokenizer.json: pad_token_id is 1000000000, there are 300 tokens: left out");
  EXPECT_NE(warnings[2].find("config.json: pad_token_id is -1"), std::string::npos);
}

// What the converter makes of post-processors; each row was compared with it.
TEST(SpecialTokens, WhatIsAddedToATextByThePostProcessor) {
  const struct {
    const char* why;
    Json post_processor;
    Added added;
  } kRows[] = {
      {"none", nullptr, {}},
      {"ByteLevel adds nothing", testing::byte_level(), {{"bos", false}, {"eos", false}}},
      {"bos", post_template({"<s>", "A"}, {"<s>", "A", "<s>", "B"}), {{"bos", true}, {"sep", false}}},
      {"bos, no separator", post_template({"<s>", "A"}, {"<s>", "A", "B"}), {{"bos", true}}},
      {"bos and eos",
       post_template({"<s>", "A", "</s>"}, {"<s>", "A", "</s>", "</s>", "B", "</s>"}),
       {{"bos", true}, {"eos", true}, {"sep", true}}},
      {"one separator is the eos of the first text",
       post_template({"<s>", "A", "</s>"}, {"<s>", "A", "</s>", "B", "</s>"}),
       {{"bos", true}, {"eos", true}, {"sep", false}}},
      {"a separator without an end", post_template({"A"}, {"A", "</s>", "B"}), {{"sep", true}}},
      {"an unknown beginning: it becomes the cls token",
       post_template({"<unk>", "A"}, {"A", "B"}),
       {{"bos", true}}},
      {"in a sequence",
       {{"type", "Sequence"},
        {"processors", {testing::byte_level(), post_template({"<s>", "A"}, {"A", "B"})}}},
       {{"bos", true}, {"eos", false}}},
      {"Roberta's",
       {{"type", "RobertaProcessing"}, {"sep", {"</s>", 2}}, {"cls", {"<s>", 1}}},
       {{"bos", true}, {"eos", true}, {"sep", true}}},
  };
  for (const auto& row : kRows)
    EXPECT_EQ(read(files_of(kNames, row.post_processor)).added, row.added) << row.why;
}

TEST(SpecialTokens, FlagsFillInWhatThePostProcessorLeavesOpen) {
  Json config = kNames;
  config["add_bos_token"] = false, config["add_eos_token"] = true, config["add_pad_token"] = nullptr;
  EXPECT_EQ(read(files_of(config)).added, (Added{{"bos", false}, {"eos", true}}));
  EXPECT_EQ(read(files_of(config, post_template({"<s>", "A"}, {}))).added,
            (Added{{"bos", true}, {"eos", true}}));
}

TEST(SpecialTokens, AnotherEndInTheTemplateMakesTheStatedOneAnEndOfTurn) {
  TokenizerFiles files = files_of(kNames, post_template({"A", "<unk>"}, {}));
  const SpecialTokens tokens = read(files, {{"eot_token_id", 9}});
  EXPECT_EQ(tokens.ids, (Ids{{"bos", 1}, {"eos", 0}, {"unk", 0}, {"eot", 2}}));
  EXPECT_EQ(tokens.added, (Added{{"eos", true}}));
  // Without tokenizer_config.json the template alone counts, and gives no ids.
  files.tokenizer_config = Json::object();
  EXPECT_EQ(read(files).added, (Added{{"eos", true}}));
  EXPECT_TRUE(read(files).ids.empty());
}

TEST(SpecialTokens, Normalizers) {
  TokenizerFiles files = files_of(kNames);
  EXPECT_FALSE(read(files).lowercase || read(files).strip_accents);
  files.tokenizer["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers", {{{"type", "NFD"}}, {{"type", "Lowercase"}}, {{"type", "StripAccents"}}}}};
  EXPECT_EQ(read(files).lowercase, true);
  EXPECT_EQ(read(files).strip_accents, true);
  files.tokenizer["normalizer"] = {
      {"type", "BertNormalizer"}, {"lowercase", false}, {"strip_accents", nullptr}};
  EXPECT_EQ(read(files).lowercase, false);
  EXPECT_FALSE(read(files).strip_accents);
}

TEST(SpecialTokens, ChatTemplatesInAllTheirPlaces) {
  const TempDir dir;
  TokenizerFiles files = files_of(kNames);
  files.folder = dir.path();
  EXPECT_TRUE(read(files).chat_template.is_null());
  dir.write("chat_template.json", R"({"chat_template": "from json"})");
  EXPECT_EQ(read(files).chat_template, "from json");
  dir.write("chat_template.jinja", "a\r\nb\rc\n");
  EXPECT_EQ(read(files).chat_template, "a\nb\nc\n");
  dir.write("additional_chat_templates/rag.jinja", "r");
  dir.write("additional_chat_templates/notes.txt", "n");
  EXPECT_EQ(
      read(files).chat_template,
      Json::parse(R"([{"name": "default", "template": "a\nb\nc\n"}, {"name": "rag", "template": "r"}])"));
  files.tokenizer_config["chat_template"] = "stated";
  EXPECT_EQ(read(files).chat_template, "stated");
  files.tokenizer_config["chat_template"] = nullptr;  // that is a statement, too
  EXPECT_TRUE(read(files).chat_template.is_null());
  files.tokenizer_config["chat_template"] = 5;
  std::vector<std::string> warnings;
  EXPECT_TRUE(
      read_special_tokens(files, Json::object(), kSpecialRoles, 300, warnings).chat_template.is_null());
  EXPECT_EQ(warnings.size(), 1u);
  files.tokenizer_config.erase("chat_template");
  dir.write("chat_template.jinja", "\xff");
  EXPECT_THROW(read(files), Error);
  files.tokenizer_config = Json::object();  // without it nothing is read
  EXPECT_TRUE(read(files).chat_template.is_null());
}

TEST(SpecialTokens, KeysOfTheFile) {
  SpecialTokens tokens;
  tokens.ids = {{"bos", 1}, {"unk", 0},  {"sep", 3}, {"pad", 4},
                {"cls", 5}, {"mask", 6}, {"eot", 7}, {"eom", 8}};
  tokens.added = {{"bos", true}, {"eos", false}, {"sep", true}, {"pad", true}};
  tokens.lowercase = true, tokens.strip_accents = false;
  tokens.chat_template =
      Json::parse(R"([{"name": "tool-use é", "template": "t"}, {"name": "default", "template": "d"},
    {"name": "empty", "template": ""}, {"template": "nameless"}, {"name": "no text"}, 5])");
  GgufMetadata metadata;
  std::vector<std::string> warnings;
  add_special_tokens(metadata, tokens, warnings);
  const std::vector<GgufMetadata::Entry> expected = {
      {"tokenizer.ggml.bos_token_id", uint32_t{1}},
      {"tokenizer.ggml.add_bos_token", true},
      {"tokenizer.ggml.add_eos_token", false},
      {"tokenizer.ggml.unknown_token_id", uint32_t{0}},
      {"tokenizer.ggml.seperator_token_id", uint32_t{3}},
      {"tokenizer.ggml.add_sep_token", true},
      {"tokenizer.ggml.padding_token_id", uint32_t{4}},
      {"tokenizer.ggml.mask_token_id", uint32_t{6}},
      {"tokenizer.ggml.eot_token_id", uint32_t{7}},
      {"tokenizer.ggml.eom_token_id", uint32_t{8}},
      {"tokenizer.chat_template.tool_use__", std::string("t")},
      {"tokenizer.chat_template", std::string("d")},
      {"tokenizer.chat_templates", std::vector<std::string>{"tool_use__"}},
      {"tokenizer.ggml.normalizer.lowercase", true},
      {"tokenizer.ggml.normalizer.strip_accents", false},
  };
  EXPECT_EQ(metadata.entries(), expected);
  EXPECT_EQ(warnings.size(), 3u);
}

TEST(SpecialTokens, Merges) {
  TokenizerFiles files = files_of(kNames);
  files.tokenizer["model"]["merges"] = Json::parse(R"([["a", "b"], ["x y", " "], "c d"])");
  EXPECT_EQ(read_merges(files), (std::vector<std::string>{"a b", "xĠy Ġ", "c d"}));
  for (const char* bad : {R"([["a"]])", R"([5])", R"([["a", 5]])", R"([["a", "b", "c"]])"}) {
    files.tokenizer["model"]["merges"] = Json::parse(bad);
    EXPECT_THROW(read_merges(files), Error) << bad;
  }
  files.tokenizer["model"] = 5;
  EXPECT_TRUE(read_merges(files).empty());
}

}  // namespace
}  // namespace moerge
