#include "moerge/export/vocabulary.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/testing/temp_dir.h"
#include "moerge/testing/tiny_vocabulary.h"

namespace moerge {
namespace {

using testing::added_token;
using testing::byte_level;
using testing::sequence;
using testing::split;
using testing::TempDir;
using Strings = std::vector<std::string>;

constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr int kPieces = 270;  // of tiny_pieces()

// A model folder without weights, and what add_vocabulary makes of it.
struct Model {
  TempDir dir;
  Json config = {{"model_type", "llama"}};
  VocabularyOptions options;
  GgufMetadata metadata;
  Strings warnings;

  Model() { write_config({{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}}); }
  explicit Model(const Json& tokenizer) : Model() { write_tokenizer(tokenizer); }
  void write_tokenizer(const Json& json) { dir.write("tokenizer.json", json.dump()); }
  void write_config(const Json& json) { dir.write("tokenizer_config.json", json.dump()); }

  void run() {
    metadata = GgufMetadata();
    warnings = add_vocabulary(metadata, dir.path(), config, options);
  }
  std::string error() {
    try {
      run();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  std::string pre() {
    run();
    return *metadata.string("tokenizer.ggml.pre");
  }
  std::string token(size_t id) { return metadata.array<std::string>("tokenizer.ggml.tokens")->at(id); }
  int32_t type(size_t id) { return metadata.array<int32_t>("tokenizer.ggml.token_type")->at(id); }
  size_t size() { return metadata.array<std::string>("tokenizer.ggml.tokens")->size(); }
};

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

// The tiny tokenizer with more added tokens at its end.
Json with_added(const std::vector<Json>& tokens) {
  Json tokenizer = testing::byte_level_tokenizer(byte_level());
  for (const Json& token : tokens) tokenizer["added_tokens"].push_back(token);
  return tokenizer;
}

int model_size(const Json& tokenizer) { return static_cast<int>(tokenizer["model"]["vocab"].size()); }

// ------------------------------------------------------------------------------------------ byte-level BPE

TEST(Vocabulary, ByteLevelWhole) {
  const Json tokenizer = testing::byte_level_tokenizer(byte_level());
  Model model(tokenizer);
  const int size = model_size(tokenizer);
  model.config["vocab_size"] = size + 2;
  model.run();
  EXPECT_TRUE(model.warnings.empty()) << model.warnings.front();
  Strings keys;
  for (const auto& [key, value] : model.metadata.entries()) keys.push_back(key);
  EXPECT_EQ(keys,
            (Strings{"tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens",
                     "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id",
                     "tokenizer.ggml.eos_token_id", "tokenizer.ggml.unknown_token_id"}));
  EXPECT_EQ(*model.metadata.string("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(*model.metadata.string("tokenizer.ggml.pre"), "gpt-2");
  EXPECT_EQ(*model.metadata.find("tokenizer.ggml.bos_token_id"), GgufValue(uint32_t{1}));
  ASSERT_EQ(model.size(), static_cast<size_t>(size + 2));
  EXPECT_EQ(model.token(1), "<s>");
  EXPECT_EQ(model.type(1), 3);
  EXPECT_EQ(model.token(3), "Ā");
  EXPECT_EQ(model.type(3), 1);
  EXPECT_EQ(model.token(static_cast<size_t>(size + 1)), fmt::format("[PAD{}]", size + 1));
  EXPECT_EQ(model.type(static_cast<size_t>(size + 1)), 5);
  EXPECT_EQ(model.metadata.array<std::string>("tokenizer.ggml.merges")->at(2), "Ġ the");
}

TEST(Vocabulary, AddedTokensAsLlamaCppNeedsThem) {
  Json normalized = added_token(0, "Ġx", false);
  normalized["normalized"] = true;
  const Json tokenizer = with_added({added_token(0, "<|x|>", false), added_token(0, "<a▁b>", false),
                                     added_token(0, "Ġgap", false), normalized,
                                     added_token(0, "<｜user｜>", false), added_token(0, "<end>")});
  Model model(tokenizer);
  model.run();
  const size_t first = static_cast<size_t>(model_size(tokenizer));
  ASSERT_EQ(model.size(), first + 6);
  const std::vector<std::pair<std::string, int32_t>> expected = {
      {"<|x|>", 3}, {"<a b>", 4}, {" gap", 4}, {"Ġx", 4}, {"<｜user｜>", 3}, {"<end>", 3}};
  for (size_t i = 0; i < expected.size(); i++) {
    EXPECT_EQ(model.token(first + i), expected[i].first);
    EXPECT_EQ(model.type(first + i), expected[i].second) << expected[i].first;
  }
}

TEST(Vocabulary, TokensThatOnlyTheOtherFilesHave) {
  const Json tokenizer = testing::byte_level_tokenizer(byte_level());
  Model model(tokenizer);
  const size_t size = static_cast<size_t>(model_size(tokenizer));
  model.write_config({{"bos_token", "<s>"},
                      {"pad_token", "<pad>"},
                      {"image_token", "<img>"},
                      {"add_bos_token", true},
                      {"added_tokens_decoder",
                       {{"900", {{"content", "<b>"}, {"special", false}}},
                        {"800", {{"content", "<a>"}, {"special", true}}}}},
                      {"additional_special_tokens", {"<extra>", "</s>"}}});
  model.run();
  ASSERT_EQ(model.size(), size + 5);
  const std::vector<std::pair<std::string, int32_t>> expected = {
      {"<a>", 3}, {"<b>", 4}, {"<pad>", 3}, {"<img>", 3}, {"<extra>", 3}};
  for (size_t i = 0; i < expected.size(); i++) {
    EXPECT_EQ(model.token(size + i), expected[i].first);
    EXPECT_EQ(model.type(size + i), expected[i].second) << expected[i].first;
  }
  // An older folder.
  model.write_config({{"bos_token", "<s>"}});
  model.dir.write("special_tokens_map.json", R"({"pad_token": {"content": "<late>"}})");
  model.dir.write("added_tokens.json", R"({"<late>": 999, "plain": 998})");
  model.run();
  ASSERT_EQ(model.size(), size + 2);
  EXPECT_EQ(model.token(size), "plain");
  EXPECT_EQ(model.type(size), 4);
  EXPECT_EQ(model.token(size + 1), "<late>");
  EXPECT_EQ(model.type(size + 1), 3);
}

TEST(Vocabulary, RolesThatATokenizerClassBrings) {
  const Json tokenizer = testing::byte_level_tokenizer(byte_level());
  Model model(tokenizer);
  model.write_config({{"tokenizer_class", "Qwen2TokenizerFast"}, {"eos_token", "</s>"}});
  const int size = model_size(tokenizer);
  model.config = {{"model_type", "qwen3"}, {"vocab_size", size + 1}};
  model.run();
  EXPECT_EQ(model.token(static_cast<size_t>(size)), "<|endoftext|>");
  // The model has no row for it: nobody meant that token.
  model.config["vocab_size"] = size;
  model.run();
  EXPECT_EQ(model.size(), static_cast<size_t>(size));
}

TEST(Vocabulary, ATokenWithoutARowIsAnError) {
  const Json tokenizer = with_added({added_token(0, "<new>")});
  Model model(tokenizer);
  const int size = model_size(tokenizer);
  model.config["vocab_size"] = size;
  const std::string message = model.error();
  EXPECT_TRUE(contains(
      message, fmt::format("the token \"<new>\" has the id {}, but the model has {} rows", size, size)))
      << message;
  model.config["vocab_size"] = size + 1;
  EXPECT_EQ(model.error(), "");
}

// ---------------------------------------------------------------------------------------- the pre-tokenizer

TEST(Vocabulary, RecognisesOwnVocabularies) {
  const Json digits = {{"type", "Digits"}, {"individual_digits", true}};
  Json llama3 = testing::byte_level_tokenizer(sequence({split(kLlama3), byte_level(false)}));
  EXPECT_EQ(Model(llama3).pre(), "dbrx");
  llama3["model"]["ignore_merges"] = true;
  Model model(llama3);
  EXPECT_EQ(model.pre(), "llama-bpe");
  EXPECT_TRUE(model.warnings.empty());
  // llama.cpp begins every text with <s> under that name unless the file says otherwise.
  EXPECT_EQ(model.metadata.boolean("tokenizer.ggml.add_bos_token"), false);
  llama3["post_processor"] = testing::post_template({"<s>", "A"}, {"<s>", "A", "<s>", "B"});
  model.write_tokenizer(llama3);
  model.run();
  EXPECT_EQ(model.metadata.boolean("tokenizer.ggml.add_bos_token"), true);
  EXPECT_EQ(Model(testing::byte_level_tokenizer(sequence({digits, byte_level()}))).pre(), "smollm");
}

TEST(Vocabulary, RecognisesUnknownStructuresByWhatTheyDo) {
  // Digits one by one, said in a way that no table has.
  Model model(testing::byte_level_tokenizer(sequence({split("[0-9]"), byte_level()})));
  const std::string name = model.pre();
  EXPECT_EQ(name, "smollm");
  ASSERT_EQ(model.warnings.size(), 1u);
  EXPECT_TRUE(
      contains(model.warnings[0], "pre-tokenizer ([0-9], then GPT-2's pattern, then ByteLevel) not known"))
      << model.warnings[0];
}

TEST(Vocabulary, SaysWhenNothingFits) {
  Model model(testing::byte_level_tokenizer(sequence({split("h"), byte_level()})));
  const std::string message = model.error();
  EXPECT_TRUE(contains(message,
                       "tokenizer.json: llama.cpp has no pre-tokenizer that cuts text like this one (h, then "
                       "GPT-2's pattern, then ByteLevel)"))
      << message;
  EXPECT_TRUE(contains(message, "becomes [")) << message;
  EXPECT_TRUE(contains(message, "--pre NAME")) << message;
  model.options.pre = "gpt-2";
  EXPECT_EQ(model.pre(), "gpt-2");
  ASSERT_EQ(model.warnings.size(), 1u);
  EXPECT_TRUE(contains(model.warnings[0], "with --pre gpt-2, ")) << model.warnings[0];
}

TEST(Vocabulary, ThePreOption) {
  Model model(testing::byte_level_tokenizer(byte_level()));
  model.options.pre = "mpt";
  EXPECT_EQ(model.pre(), "mpt");
  EXPECT_TRUE(model.warnings.empty());
  model.options.pre = "qwen3";
  EXPECT_EQ(model.error(),
            "--pre qwen3: llama.cpp knows no pre-tokenizer of that name (did you mean qwen2?)");
  model.options.pre = "something else";
  EXPECT_TRUE(contains(model.error(), "for example gpt-2")) << model.error();
}

TEST(Vocabulary, WhatLlamaCppLeavesOutIsSaid) {
  Model model(testing::byte_level_tokenizer(byte_level(true, true)));
  EXPECT_EQ(model.pre(), "gpt-2");
  ASSERT_EQ(model.warnings.size(), 1u);
  EXPECT_TRUE(contains(model.warnings[0], "puts a space in front of a text")) << model.warnings[0];

  Json stripping = added_token(0, "<strip>");
  stripping["lstrip"] = true;
  model.write_tokenizer(with_added({stripping}));
  EXPECT_EQ(model.pre(), "gpt-2");
  ASSERT_EQ(model.warnings.size(), 1u);
  EXPECT_TRUE(contains(model.warnings[0], "texts with added tokens otherwise")) << model.warnings[0];

  Json lowercase = testing::byte_level_tokenizer(byte_level());
  lowercase["normalizer"] = {{"type", "Lowercase"}};
  model.write_tokenizer(lowercase);
  EXPECT_TRUE(contains(model.error(), "normalizer Lowercase")) << model.error();
}

// ------------------------------------------------------------------------------------------- SentencePiece

// The tokenizer.json of tiny_pieces().
Json llama_tokenizer() {
  Json vocab = Json::object();
  int id = 0;
  for (const testing::TinyPiece& piece : testing::tiny_pieces()) vocab[piece.text] = id++;
  const Json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}};
  const Json back = {{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}};
  Json tokenizer = testing::byte_level_tokenizer(nullptr);
  tokenizer["normalizer"] = {{"type", "Sequence"},
                             {"normalizers", {{{"type", "Prepend"}, {"prepend", "▁"}}, replace}}};
  tokenizer["decoder"] = {{"type", "Sequence"},
                          {"decoders", {back, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}};
  Json& model = tokenizer["model"];
  model["vocab"] = vocab, model["byte_fallback"] = true, model["fuse_unk"] = true,
  model["unk_token"] = "<unk>";
  model["merges"] = Json::parse(R"([["t", "h"], ["th", "e"], ["▁", "the"], ["▁", "t"], ["h", "e"]])");
  return tokenizer;
}

TEST(Vocabulary, SentencePieceWhole) {
  Model model(llama_tokenizer());
  std::vector<testing::TinyPiece> pieces = testing::tiny_pieces();
  ASSERT_EQ(pieces.size(), static_cast<size_t>(kPieces));
  pieces.push_back({"user▁defined", -3.5f, 4});
  pieces.push_back({"unused", 0, 5});
  model.dir.write("tokenizer.model", testing::sentencepiece_bytes(pieces));
  model.dir.write("added_tokens.json", R"({"<aj>": 272, "x▁y": 275, "<far>": 400, "<before>": -1})");
  model.write_config({{"bos_token", "<s>"},
                      {"add_prefix_space", false},
                      {"added_tokens_decoder",
                       {{"273", {{"content", "<c>"}, {"special", true}}},
                        {"274", {{"content", "d▁e"}, {"special", false}}},
                        {"276", {{"content", "<|f|>"}, {"special", false}}},
                        {"999", {{"content", "<g>"}}}}}});
  model.config["vocab_size"] = 280;
  model.run();
  EXPECT_EQ(*model.metadata.string("tokenizer.ggml.model"), "llama");
  EXPECT_EQ(*model.metadata.string("tokenizer.ggml.pre"), "default");
  EXPECT_EQ(model.metadata.boolean("tokenizer.ggml.add_space_prefix"), false);
  EXPECT_FALSE(model.metadata.find("tokenizer.ggml.merges"));
  const std::vector<float>& scores = *model.metadata.array<float>("tokenizer.ggml.scores");
  ASSERT_EQ(model.size(), 280u);
  ASSERT_EQ(scores.size(), 280u);
  const struct {
    size_t id;
    std::string text;
    int32_t type;
    float score;
  } kRows[] = {{0, "<unk>", 2, 0},
               {1, "<s>", 3, 0},
               {13, "<0x0A>", 6, 0},
               {261, "▁the", 1, -2},
               {270, "user▁defined", 1, -3.5f},
               {271, "unused", 5, 0},
               {272, "<aj>", 4, -1000},
               {273, "<c>", 3, -1000},
               {274, "d e", 4, -1000},
               {275, "x▁y", 4, -1000},
               {276, "<|f|>", 3, -1000},
               {277, "[PAD277]", 5, -10000}};
  for (const auto& row : kRows) {
    EXPECT_EQ(model.token(row.id), row.text);
    EXPECT_EQ(model.type(row.id), row.type) << row.text;
    EXPECT_EQ(scores[row.id], row.score) << row.text;
  }
  std::string all;
  for (const std::string& warning : model.warnings) all += warning + "\n";
  EXPECT_TRUE(contains(all, "\"<far>\" has the id 400, the model has 280 tokens: left out")) << all;
  EXPECT_TRUE(contains(all, "\"<before>\" has the id -1")) << all;
  EXPECT_TRUE(contains(all, "\"<g>\" has the id 999")) << all;
  // More pieces than rows.
  model.config["vocab_size"] = 271;
  model.run();
  EXPECT_EQ(model.size(), 271u);
}

TEST(Vocabulary, SentencePieceAlone) {
  Model model;
  model.dir.write("tokenizer.model", testing::sentencepiece_bytes(testing::tiny_pieces()));
  model.config["bos_token_id"] = 1;
  model.run();
  EXPECT_TRUE(model.warnings.empty()) << model.warnings.front();
  EXPECT_EQ(model.size(), static_cast<size_t>(kPieces));
  EXPECT_EQ(model.metadata.integer("tokenizer.ggml.bos_token_id"), 1);
  EXPECT_FALSE(model.metadata.find("tokenizer.ggml.eos_token_id"));
  model.dir.write("tokenizer.model", testing::sentencepiece_bytes(testing::tiny_pieces(), false));
  model.options.pre = "gpt-2";
  model.run();
  ASSERT_EQ(model.warnings.size(), 2u);
  EXPECT_TRUE(contains(model.warnings[0], "a unigram model")) << model.warnings[0];
  EXPECT_TRUE(contains(model.warnings[1], "--pre gpt-2 is not used")) << model.warnings[1];
}

TEST(Vocabulary, ByteFallbackWithoutScores) {
  Json tokenizer = llama_tokenizer();
  for (const Json& token :
       {added_token(270, "<role>"), added_token(271, "<special>"), added_token(272, "plain", false)})
    tokenizer["added_tokens"].push_back(token);
  Model model(tokenizer);
  model.write_config(
      {{"bos_token", "<s>"}, {"eos_token", nullptr}, {"pad_token", "<role>"}, {"unk_token", "<unk>"}});
  model.config["vocab_size"] = 275;
  model.run();
  EXPECT_EQ(*model.metadata.string("tokenizer.ggml.model"), "llama");
  EXPECT_EQ(*model.metadata.array<float>("tokenizer.ggml.scores"), std::vector<float>(275, -1000.0f));
  const std::vector<std::pair<size_t, int32_t>> types = {{0, 3},   {1, 3},   {2, 1},   {13, 6}, {261, 1},
                                                         {270, 3}, {271, 4}, {272, 4}, {273, 5}};
  for (const auto& [id, type] : types) EXPECT_EQ(model.type(id), type) << model.token(id);
  EXPECT_EQ(model.token(274), "[PAD274]");
}

TEST(Vocabulary, ByteLevelThatClaimsAByteFallback) {  // as transformers 5.17 writes what it read from a GGUF
  Json tokenizer = testing::byte_level_tokenizer(byte_level());
  Model plain(tokenizer);
  plain.run();
  tokenizer["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array()}};
  tokenizer["decoder"] = {{"type", "Sequence"},
                          {"decoders",
                           {{{"type", "ByteFallback"}},
                            {{"type", "Fuse"}},
                            {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}}}}};
  tokenizer["model"]["byte_fallback"] = true;
  Model claims(tokenizer);
  claims.run();
  EXPECT_EQ(*claims.metadata.string("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(*claims.metadata.string("tokenizer.ggml.pre"), *plain.metadata.string("tokenizer.ggml.pre"));
  EXPECT_EQ(claims.size(), plain.size());
  EXPECT_TRUE(claims.warnings.empty()) << claims.warnings.front();
}

TEST(Vocabulary, WhichFileCounts) {
  const std::string pieces = testing::sentencepiece_bytes(testing::tiny_pieces());
  const Json bytes = testing::byte_level_tokenizer(byte_level());
  const struct {
    const char* model_type;
    bool json, model;
    const char* kind;
  } kRows[] = {
      {"llama", true, true, "llama"},      {"mistral", true, true, "llama"},
      {"mixtral", true, false, "gpt2"},    {"qwen2", true, true, "llama"},
      {"qwen3", true, false, "gpt2"},      {"deepseek", true, true, "llama"},
      {"qwen2_moe", true, true, "gpt2"},   {"qwen3_moe", true, true, "gpt2"},
      {"qwen3_moe", false, true, "llama"}, {"qwen2_moe", true, false, "gpt2"},
  };
  for (const auto& row : kRows) {
    Model model;
    model.config["model_type"] = row.model_type;
    if (row.json) model.write_tokenizer(bytes);
    if (row.model) model.dir.write("tokenizer.model", pieces);
    model.run();
    EXPECT_EQ(*model.metadata.string("tokenizer.ggml.model"), row.kind) << row.model_type;
  }
  // Where the converter would give up, the file with the scores.
  Model both(llama_tokenizer());
  both.dir.write("tokenizer.model", pieces);
  both.config["model_type"] = "qwen3_moe";
  both.run();
  EXPECT_EQ(*both.metadata.string("tokenizer.ggml.model"), "llama");
  EXPECT_EQ(both.metadata.array<float>("tokenizer.ggml.scores")->at(260), -1.0f);
  Model neither;
  EXPECT_TRUE(contains(neither.error(), "neither tokenizer.json nor tokenizer.model")) << neither.error();
  neither.dir.write("tekken.json", "{}");
  EXPECT_TRUE(contains(neither.error(), "tekken.json")) << neither.error();
}

TEST(Vocabulary, SizesThatMeanAModel) {
  Model model(llama_tokenizer());
  model.config["vocab_size"] = 32016;
  model.run();
  EXPECT_EQ(model.metadata.integer("tokenizer.ggml.eot_token_id"), 32010);
  model.config["vocab_size"] = 49152;
  model.run();
  EXPECT_EQ(model.metadata.boolean("tokenizer.ggml.add_bos_token"), false);
  EXPECT_FALSE(model.metadata.find("tokenizer.ggml.eot_token_id"));
  model.config["model_type"] = "qwen3";
  model.run();
  EXPECT_FALSE(model.metadata.find("tokenizer.ggml.add_bos_token"));
}

// -------------------------------------------------------------------------------------------- hostile files

TEST(Vocabulary, RefusesSenselessSizes) {
  Model model(testing::byte_level_tokenizer(byte_level()));
  for (const int64_t size : {int64_t{0}, int64_t{-1}, int64_t{1} << 30, INT64_MAX}) {
    model.config["vocab_size"] = size;
    EXPECT_TRUE(contains(model.error(), fmt::format("\"vocab_size\" is {}", size))) << model.error();
  }
  model.config["vocab_size"] = "many";
  EXPECT_TRUE(contains(model.error(), "should be an integer")) << model.error();
}

TEST(Vocabulary, RefusesWhatLlamaCppWouldNotLoad) {
  Json tokenizer = testing::byte_level_tokenizer(byte_level());
  const int size = model_size(tokenizer);
  tokenizer["model"]["vocab"][fmt::format("[PAD{}]", size + 1)] = size;
  Model model(tokenizer);
  model.config["vocab_size"] = size + 5;
  EXPECT_TRUE(contains(model.error(), fmt::format("tokens {} and {} would both read", size, size + 1)))
      << model.error();
  tokenizer["model"]["merges"] = Json::array();
  model.config.erase("vocab_size");
  model.write_tokenizer(tokenizer);
  EXPECT_TRUE(contains(model.error(), "cannot find tokenizer merges")) << model.error();
}

TEST(Vocabulary, RefusesOtherModels) {
  Json tokenizer = testing::byte_level_tokenizer(byte_level());
  tokenizer["model"] = Json::parse(R"({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"})");
  EXPECT_TRUE(contains(Model(tokenizer).error(), "a WordLevel model")) << Model(tokenizer).error();
}

TEST(Vocabulary, HostileFilesAreErrorsOrWarnings) {
  const Json good = testing::byte_level_tokenizer(byte_level());
  const Strings configs = {"[]",
                           "{",
                           "5",
                           "\xff",
                           std::string(1'000'000, '['),
                           R"({"added_tokens_decoder": {"x": {"content": "a"}}})",
                           R"({"added_tokens_decoder": {"1": 5}})",
                           R"({"added_tokens_decoder": {"1": {"content": 5}}})",
                           R"({"added_tokens_decoder": {"99999999999999999999": {"content": "a"}}})",
                           R"({"added_tokens_decoder": {"1": {"content": "a", "special": "yes"}}})",
                           R"({"add_prefix_space": 5})"};
  for (const std::string& config : configs) {
    Model model(good);
    model.dir.write("tokenizer_config.json", config);
    EXPECT_NE(model.error(), "") << config.substr(0, 80);
  }
  const Strings harmless = {
      R"({"added_tokens_decoder": {"-5": {"content": "a"}, "1000000000000": {"content": "b"}}})",
      R"({"added_tokens_decoder": [1, 2]})",
      R"({"extra_special_tokens": 5, "additional_special_tokens": {"a": 1}})",
      R"({"bos_token": null, "eos_token": {"content": 3}, "tokenizer_class": 7, "chat_template": {"a": 1}})"};
  for (const std::string& config : harmless) {
    Model model(good);
    model.dir.write("tokenizer_config.json", config);
    EXPECT_EQ(model.error(), "") << config;
  }
  for (const std::string& text : {std::string("[]"), std::string("{}"), std::string("{\"model\": 5}"),
                                  std::string(1'000'000, '['), std::string("\xff")}) {
    Model model;
    model.dir.write("tokenizer.json", text);
    EXPECT_NE(model.error(), "") << text.substr(0, 80);
  }
  for (const char* text : {"[]", R"({"a": "b"})", R"({"a": 1.5})"}) {
    Model model(good);
    model.write_config(Json::object());
    model.dir.write("added_tokens.json", text);
    EXPECT_NE(model.error(), "") << text;
  }
  // A number in the file reserves nothing.
  Json far = good;
  far["added_tokens"].push_back(added_token(1'000'000'000, "<far>"));
  Model model(far);
  EXPECT_EQ(model.error(), "");
  EXPECT_EQ(model.token(static_cast<size_t>(model_size(far))), "<far>");
  far["model"]["vocab"]["far"] = 4'000'000'000;
  model.write_tokenizer(far);
  EXPECT_NE(model.error(), "");
}

}  // namespace
}  // namespace moerge
