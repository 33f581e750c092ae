// Which tokens a merge has, whose rows they have, and its tokenizer's files. That texts become the same
// tokens as with mergekit is in embeddings_test.cpp.

#include "moerge/merge/vocabulary.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/yaml.h"
#include "moerge/model/hf_tokenizer.h"
#include "moerge/testing/tiny_gguf.h"
#include "moerge/testing/tiny_vocabulary.h"
#include "moerge/testing/tiny_vocabulary_model.h"

namespace moerge {
namespace {

namespace fs = std::filesystem;
using testing::added_token;
using testing::numbered_rows;
using testing::TempDir;
using testing::vocabulary_model;

// A BPE without merges, unless they are given.
Json bpe(const std::vector<std::string>& tokens, const Json& added = Json::array(),
         const Json& merges = Json::array()) {
  Json::object_t vocab;
  for (size_t i = 0; i < tokens.size(); i++) vocab.push_back({tokens[i], i});
  return {{"version", "1.0"},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder", nullptr},
          {"model", {{"type", "BPE"}, {"vocab", Json(std::move(vocab))}, {"merges", merges}}}};
}

class Vocabularies : public ::testing::Test {
 protected:
  using Files = std::vector<std::pair<std::string, std::string>>;

  void add(const std::string& name, const Files& files, int64_t rows, bool merged = true,
           const Json& config = Json::object()) {
    opened_.push_back(vocabulary_model(dir_, name, files, numbered_rows(rows, 1), nullptr, config));
    listed_.push_back({name, opened_.back().get(), rows, merged});
  }
  void add(const std::string& name, const Json& tokenizer, int64_t rows, bool merged = true) {
    add(name, Files{{"tokenizer.json", tokenizer.dump()}}, rows, merged);
  }
  MergedVocabulary merge(const std::string& yaml, const std::string& base = "") {
    YamlProblems problems("m.yaml");
    const auto settings = read_tokenizer_settings(parse_yaml(yaml, "m.yaml"), "m.yaml", problems);
    problems.throw_if_any();
    return merge_vocabularies(settings.value(), base, listed_);
  }
  std::string error(const std::string& yaml, const std::string& base = "") {
    try {
      merge(yaml, base);
    } catch (const Error& error) {
      return error.message();
    }
    return "no error";
  }
  fs::path written(const MergedVocabulary& vocabulary, const std::string* chat_template = nullptr) {
    const fs::path folder = dir_ / ("out" + std::to_string(outs_++));
    fs::create_directory(folder);
    write_merged_tokenizer(vocabulary, folder, chat_template);
    return folder;
  }
  static std::vector<std::string> texts(const fs::path& folder) {
    std::vector<std::string> out;
    for (const Token& token :
         load_hf_tokenizer(read_tokenizer_files(folder), Json::object()).tokenizer.tokens())
      out.push_back(token.text);
    return out;
  }

  TempDir dir_;
  std::vector<std::unique_ptr<Model>> opened_;
  std::vector<VocabularyModel> listed_;
  int outs_ = 0;
};

using Texts = std::vector<std::string>;
using Ids = std::vector<int32_t>;

TEST_F(Vocabularies, OfOneModelAreItsFilesByteForByte) {
  const std::string tokenizer = bpe({"a", "b"}).dump(3) + "\n\n", settings = "{ \"bos_token\" :null }";
  add("one", Files{{"tokenizer.json", tokenizer}, {"tokenizer_config.json", settings}, {"merges.txt", "x"}},
      2);
  add("two", bpe({"b", "c"}), 2);
  const MergedVocabulary vocabulary = merge("tokenizer_source: base\n", "one");
  EXPECT_TRUE(vocabulary.changed_files.empty());
  EXPECT_EQ(vocabulary.tokenizer_model, opened_[0].get());
  const fs::path folder = written(vocabulary);
  EXPECT_EQ(read_file(folder / "tokenizer.json", 1 << 20), tokenizer);
  EXPECT_EQ(read_file(folder / "tokenizer_config.json", 1 << 20), settings);
  EXPECT_TRUE(fs::exists(folder / "merges.txt"));
  EXPECT_EQ(*vocabulary.own_rows[0], (Ids{0, 1}));
  EXPECT_EQ(*vocabulary.own_rows[1], (Ids{-1, 0}));
  EXPECT_EQ(merge("tokenizer_source: two\n", "one").tokenizer_model, opened_[1].get());
}

TEST_F(Vocabularies, OfAUnionChangeNothingButTheTokens) {
  const std::string tokenizer =
      R"({ "version":"1.0", "added_tokens" : [], "normalizer":null, "pre_tokenizer":null,
 "post_processor":null, "decoder":null, "model":{"type":"BPE","vocab":{"a":0},"merges":[]} })";
  add("one",
      Files{{"tokenizer.json", tokenizer},
            {"tokenizer_config.json", R"({"x": 1.50, "added_tokens_decoder": {}})"},
            {"added_tokens.json", "{}"}},
      1);
  add("two", bpe({"b", "a"}, Json::array({added_token(2, "<x>")})), 3);
  const MergedVocabulary vocabulary = merge("tokenizer_source: union\n", "one");
  const fs::path folder = written(vocabulary);
  const std::string text = read_file(folder / "tokenizer.json", 1 << 20);
  EXPECT_TRUE(text.starts_with("{ \"version\":\"1.0\", \"added_tokens\" : [{\"id\":1,\"content\":\"b\""))
      << text;
  EXPECT_TRUE(text.ends_with("\"merges\":[]} }")) << text;
  const std::string settings = read_file(folder / "tokenizer_config.json", 1 << 20);
  EXPECT_TRUE(settings.starts_with("{\"x\": 1.50,")) << settings;
  EXPECT_EQ(parse_json(settings, "x")["added_tokens_decoder"]["2"]["content"], "<x>");
  EXPECT_EQ(parse_json(read_file(folder / "added_tokens.json", 1 << 20), "x"), Json({{"b", 1}, {"<x>", 2}}));
  EXPECT_EQ(texts(folder), (Texts{"a", "b", "<x>"}));
  EXPECT_EQ(*vocabulary.own_rows[0], (Ids{0, -1, -1}));
  EXPECT_EQ(*vocabulary.own_rows[1], (Ids{1, 0, 2}));
  const std::string chat = "{{ messages }}";
  const fs::path with_template = written(vocabulary, &chat);
  const Json changed = read_json(with_template / "tokenizer_config.json");
  EXPECT_EQ(changed["chat_template"], chat);
  EXPECT_EQ(changed["added_tokens_decoder"].size(), 2u);
}

TEST_F(Vocabularies, TakeNoTokensFromModelsThatAreNotMerged) {
  add("one", bpe({"a"}), 1);
  add("chat", bpe({"a", "q", "r"}), 3, false);
  EXPECT_EQ(merge("tokenizer: {source: union, tokens: {q: {source: chat}}}\n", "one").tokens, 2);
  EXPECT_EQ(merge("tokenizer_source: chat\n", "one").tokens, 3);
}

TEST_F(Vocabularies, AModelWithoutATokenizerHasTheBases) {
  add("one", bpe({"a", "b"}), 2);
  add("bare", Files{}, 3);
  const MergedVocabulary vocabulary = merge("tokenizer_source: union\n", "one");
  ASSERT_EQ(vocabulary.warnings.size(), 1u);
  EXPECT_EQ(vocabulary.warnings[0], "bare: no tokenizer; it is taken to have the tokens of one");
  EXPECT_EQ(vocabulary.own_rows[1], vocabulary.own_rows[0]);
  EXPECT_NE(error("tokenizer_source: bare\n", "one").find("has none"), std::string::npos);
  EXPECT_NE(error("tokenizer_source: base\n", "bare").find("has none"), std::string::npos);
}

TEST_F(Vocabularies, TokensBeyondTheEmbeddingsAreCutOff) {
  add("one",
      Files{{"tokenizer.json", bpe({"a", "b", "ab", "c", "bc", "abc"},
                                   {added_token(6, "<x>"), added_token(7, "<pad>")}, {"a b", "b c", "a bc"})
                                   .dump()},
            {"tokenizer_config.json",
             R"({"pad_token": "<pad>", "added_tokens_decoder": {"6": {"content": "<x>", "special": true}}})"},
            {"tokenizer.model", "not read"}},
      4);
  add("two", bpe({"a", "<x>", "bc"}), 3);
  const MergedVocabulary cut = merge("tokenizer_source: base\n", "one");
  const fs::path folder = written(cut);
  EXPECT_EQ(texts(folder), (Texts{"a", "b", "ab", "c", "<pad>"}));
  EXPECT_EQ(*cut.own_rows[0], (Ids{0, 1, 2, 3, -1}));
  EXPECT_EQ(cut.rows, 5);
  EXPECT_FALSE(fs::exists(folder / "tokenizer.model"));
  EXPECT_EQ(read_json(folder / "tokenizer.json")["model"]["merges"], Json({"a b"}));
  ASSERT_EQ(cut.warnings.size(), 2u);
  EXPECT_EQ(cut.warnings[0],
            "one: 4 of its tokens have no row in its embeddings of 4: \"bc\", \"abc\", \"<x>\", \"<pad>\"");
  EXPECT_EQ(cut.warnings[1], "no merged model has a row for 1 tokens, whose rows will be zeros: \"<pad>\"");
  const MergedVocabulary all = merge("tokenizer_source: union\n", "one");
  EXPECT_EQ(texts(written(all)), (Texts{"a", "b", "ab", "c", "<pad>", "<x>", "bc"}));
  EXPECT_EQ(*all.own_rows[1], (Ids{0, -1, -1, -1, -1, 1, 2}));
}

TEST_F(Vocabularies, OfOtherKindsAreCutToo) {
  Json unigram = bpe({}), words = bpe({});
  unigram["model"] = {{"type", "Unigram"},
                      {"unk_id", 0},
                      {"vocab", Json::array({Json::array({"<unk>", 0.0}), Json::array({"a", -1.5}),
                                             Json::array({"b", -2.0})})}};
  words["model"] = {{"type", "WordLevel"}, {"unk_token", "a"}, {"vocab", {{"a", 0}, {"b", 1}, {"c", 2}}}};
  add("one", unigram, 2);
  add("two", words, 2);
  EXPECT_EQ(texts(written(merge("tokenizer_source: one\n", "one"))), (Texts{"<unk>", "a"}));
  EXPECT_EQ(texts(written(merge("tokenizer_source: two\n", "one"))), (Texts{"a", "b"}));
  unigram["model"]["unk_id"] = 2;
  add("three", unigram, 2);
  EXPECT_NE(error("tokenizer_source: three\n", "one").find("the unknown token is beyond the 2 rows"),
            std::string::npos);
}

TEST_F(Vocabularies, WhatIsPutAroundTextsHasARow) {
  Json tokenizer = bpe({"a", "<s>"}, Json::array({added_token(1, "<s>")}));
  tokenizer["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"pair",
       {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}}},
      {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}};
  add("one", tokenizer, 2);
  EXPECT_EQ(merge("tokenizer_source: base\n", "one").rows, 2);
  listed_[0].rows = 1;
  EXPECT_NE(error("tokenizer_source: base\n", "one").find("puts token 1 around every text"),
            std::string::npos)
      << error("tokenizer_source: base\n", "one");
}

TEST_F(Vocabularies, IdsWithGaps) {
  Json gaps = bpe({"a"});
  gaps["model"]["vocab"]["b"] = 2;
  add("gaps", gaps, 3);
  add("two", bpe({"a", "q"}), 2);
  EXPECT_EQ(merge("tokenizer_source: base\n", "gaps").used, (std::vector<bool>{true, false, true}));
  const std::string said = error("tokenizer_source: union\n", "gaps");
  EXPECT_NE(said.find("gaps"), std::string::npos);
  EXPECT_NE(said.find("token ids have gaps"), std::string::npos) << said;
}

TEST_F(Vocabularies, SurprisingTexts) {
  const Texts odd = {"\"\\", "\n\t", "\xe2\x80\xae", "<|x|>", std::string("n\0l", 3), "\xf0\x9f\x98\x80"};
  add("one", bpe({"a"}), 1);
  add("two", bpe(odd), 6);
  const fs::path folder = written(merge("tokenizer_source: union\n", "one"));
  Texts expected = {"a"};
  expected.insert(expected.end(), odd.begin(), odd.end());
  EXPECT_EQ(texts(folder), expected);
}

TEST_F(Vocabularies, AddedTokensAreAsTheFirstDefinesThem) {
  Json strict = added_token(1, "<x>");
  strict["lstrip"] = true;
  add("one", bpe({"a", "b"}), 2);
  add("two", bpe({"a"}, Json::array({strict})), 2);
  add("three", bpe({"a"}, {added_token(1, "<x>"), added_token(2, "b", false)}), 3);
  const MergedVocabulary vocabulary = merge("tokenizer_source: union\n", "one");
  ASSERT_EQ(vocabulary.warnings.size(), 1u);
  EXPECT_EQ(vocabulary.warnings[0],
            "models define added tokens in different ways; as the first has it: \"<x>\"");
  const auto tokens =
      load_hf_tokenizer(read_tokenizer_files(written(vocabulary)), Json::object()).tokenizer.tokens();
  ASSERT_EQ(tokens.size(), 3u);
  EXPECT_TRUE(tokens[1].added);  // a token of one's vocabulary, found in texts as three has it
  EXPECT_EQ(tokens[1].text, "b");
  EXPECT_TRUE(tokens[2].lstrip);
}

TEST_F(Vocabularies, ConfigIsOfTheTokenizersModel) {
  add("one", Files{{"tokenizer.json", bpe({"a", "b"}).dump()}}, 2, true,
      {{"bos_token_id", 0}, {"eos_token_id", 1}, {"pad_token_id", 1}});
  add("chat", Files{{"tokenizer.json", bpe({"a", "b", "c"}).dump()}}, 3, true,
      {{"bos_token_id", 0}, {"eos_token_id", {1, 2}}});
  EXPECT_EQ(merge("tokenizer_source: union\n", "one").config_changes, Json({{"vocab_size", 3}}));
  EXPECT_EQ(merge("tokenizer: {source: chat, pad_to_multiple_of: 8}\n", "one").config_changes,
            Json({{"vocab_size", 8}, {"eos_token_id", {1, 2}}, {"pad_token_id", nullptr}}));
}

TEST_F(Vocabularies, OfAGgufFile) {
  dir_.write("one.gguf", testing::gguf_bytes(testing::tiny_gguf_metadata(), testing::tiny_gguf_tensors(1)));
  opened_.push_back(std::make_unique<Model>("one", ModelLocation{.path = dir_ / "one.gguf"}));
  listed_.push_back({"one", opened_.back().get(), 16});
  add("two", bpe({"a", "<new>"}), 2);
  const MergedVocabulary vocabulary = merge("tokenizer_source: union\n", "one");
  EXPECT_EQ(vocabulary.tokens, 17);
  const fs::path folder = written(vocabulary);
  EXPECT_EQ(Tokenizer(folder).tokens().back().text, "<new>");
  EXPECT_TRUE(fs::exists(folder / "tokenizer_config.json"));
  EXPECT_EQ((*vocabulary.own_rows[1])[16], 1);
}

TEST_F(Vocabularies, OfPiecesAlone) {
  const std::vector<testing::TinyPiece> pieces = testing::tiny_pieces();
  const auto rows = std::ssize(pieces);
  add("one", Files{{"tokenizer.model", testing::sentencepiece_bytes(pieces, true)}}, rows);
  add("two", bpe({"a", "<new>"}), 2);
  EXPECT_FALSE(fs::exists(written(merge("tokenizer_source: base\n", "one")) / "tokenizer.json"));
  const fs::path folder = written(merge("tokenizer_source: union\n", "one"));
  EXPECT_TRUE(fs::exists(folder / "tokenizer.model"));
  const Tokenizer before(dir_ / "one"), after(folder);
  EXPECT_EQ(after.tokens().size(), before.tokens().size() + 1);
  EXPECT_EQ(after.encode("the sea", true), before.encode("the sea", true));
  EXPECT_EQ(after.encode("<new>"), (Ids{static_cast<int32_t>(rows)}));
}

TEST_F(Vocabularies, AllProblemsTogether) {
  add("one", bpe({"a", "b"}, Json::array({added_token(2, "<|im_start|>")})), 2);
  add("chat", bpe({"a"}, Json::array({added_token(1, "<|im_start|>")})), 2);
  EXPECT_EQ(error("tokenizer: {source: chatt, tokens: {a: {source: two}}}\n", "one"),
            "m.yaml:1:12: \"chatt\" is none of the models (did you mean \"chat\"?)\n"
            "m.yaml:1:37: \"two\" is none of the models");
  EXPECT_EQ(error("tokenizer:\n  source: union\n  tokens:\n    b: {source: chat}\n"
                  "    c: {source: {kind: model_token, model: chat, token: <|im_star|>}}\n"
                  "    d: {source: {kind: model_token, model: chat, token_id: 2}}\n"
                  "    e: {source: {kind: model_token, model: one, token: <|im_start|>}}\n",
                  "one"),
            "m.yaml:4:5: \"chat\" has no token \"b\"\n"
            "m.yaml:5:5: \"chat\" has no token \"<|im_star|>\" (did you mean \"<|im_start|>\"?)\n"
            "m.yaml:6:5: token_id 2 of \"chat\": its embeddings have 2 rows\n"
            "m.yaml:7:5: \"one\" has no token \"<|im_start|>\" with a row: its id is 2, the embeddings have "
            "2 rows");
  listed_[1].rows = 0;
  EXPECT_NE(error("tokenizer_source: base\n", "one").find("chat: embeddings of 0 rows"), std::string::npos);
}

TEST_F(Vocabularies, OfManyTokens) {
  constexpr int kTokens = 50'000;
  Texts one, two;
  for (int i = 0; i < kTokens; i++) {
    one.push_back("a" + std::to_string(i));
    two.push_back((i < kTokens / 2 ? "a" : "b") + std::to_string(kTokens - i));
  }
  add("one", bpe(one), kTokens);
  add("two", bpe(two), kTokens - 1);
  const MergedVocabulary vocabulary = merge("tokenizer_source: base\n", "one");
  EXPECT_EQ(vocabulary.rows, kTokens);
  EXPECT_EQ((*vocabulary.own_rows[1])[kTokens - 1], 1);
  EXPECT_EQ((*vocabulary.own_rows[1])[1], -1);
  const MergedVocabulary cut = merge("tokenizer_source: two\n", "one");
  EXPECT_EQ(cut.rows, kTokens - 1);
  EXPECT_EQ(cut.changed_files.size(), 1u);
}

}  // namespace
}  // namespace moerge
