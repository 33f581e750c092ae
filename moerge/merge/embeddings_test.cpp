// What mergekit 0.1.5 makes of models with different tokenizers (tests/merge/tokenizers.py), and what it does
// not do: rows of no token, models that are not merged, tensors that do not fit.

#include "moerge/merge/embeddings.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/yaml.h"
#include "moerge/model/hf_tokenizer.h"
#include "moerge/testing/tiny_vocabulary_model.h"

namespace moerge {
namespace {

using testing::kEmbeddings;
using testing::kHead;
using testing::numbered_rows;
using testing::rows_of;
using testing::TempDir;
using testing::TokenRows;
using testing::vocabulary_model;

// Models of a merge, the base first, as a planner lists them.
struct Models {
  std::vector<std::unique_ptr<Model>> opened;
  std::vector<VocabularyModel> listed;

  void add(std::unique_ptr<Model> model, bool merged = true) {
    listed.push_back({model->name, model.get(), model->checkpoint.at(kEmbeddings).rows(), merged});
    opened.push_back(std::move(model));
  }
  // An output matrix that is tied is the embeddings.
  ByTokenTensors tensors(const std::string& name) const {
    ByTokenTensors out;
    for (const auto& model : opened) {
      const StoredTensor* found = model->checkpoint.find(name);
      out.stored.push_back(found ? found : model->checkpoint.find(kEmbeddings));
    }
    return out;
  }
};

std::vector<std::string> names_of(const Json& yaml_models, const std::string& base) {
  std::vector<std::string> out;
  if (!base.empty()) out.push_back(base);
  for (const Json& name : yaml_models)
    if (name != base) out.push_back(name);
  return out;
}

// "models: [{model: a}, ...]" of a case, as JSON.
Json models_in(const YamlNode& root) {
  Json out = Json::array();
  for (const YamlNode& item : root.find("models")->items) out.push_back(item.find("model")->scalar);
  return out;
}

std::string text_of(const YamlNode& root, const char* key) {
  const YamlNode* node = root.find(key);
  return node ? node->scalar : "";
}

TokenizerSettings settings_of(const std::string& yaml) {
  YamlProblems problems("m.yaml");
  const auto settings = read_tokenizer_settings(parse_yaml(yaml, "m.yaml"), "m.yaml", problems);
  problems.throw_if_any();
  return settings.value();
}

class Golden : public ::testing::Test {
 protected:
  void open(const std::string& name, Models& models) {
    const Json& said = golden_["models"].at(name);
    const auto embeddings = said["tensors"][kEmbeddings].get<TokenRows>();
    TokenRows head;
    if (said["tensors"].contains(kHead)) head = said["tensors"][kHead].get<TokenRows>();
    models.add(vocabulary_model(dir_, name,
                                {{"tokenizer.json", said["tokenizer"].dump()},
                                 {"tokenizer_config.json", said["tokenizer_config"].dump()}},
                                embeddings, head.empty() ? nullptr : &head));
  }

  void expect_tokenizer(const Json& line, const MergedVocabulary& vocabulary) {
    const std::string name = line["name"];
    const std::filesystem::path folder = dir_ / ("out " + name);
    std::filesystem::create_directory(folder);
    write_merged_tokenizer(vocabulary, folder);
    const HfTokenizer read = load_hf_tokenizer(read_tokenizer_files(folder), Json::object());
    std::vector<std::string> texts;
    std::vector<int64_t> ids;
    Json added = Json::object();
    for (const Token& token : read.tokenizer.tokens()) {
      texts.push_back(token.text);
      ids.push_back(token.id);
      if (token.added)
        added[std::to_string(token.id)] = {token.single_word, token.lstrip, token.rstrip, token.normalized,
                                           token.special};
    }
    EXPECT_EQ(texts, line["tokens"].get<std::vector<std::string>>()) << name;
    EXPECT_EQ(ids, line["ids"].get<std::vector<int64_t>>()) << name;
    EXPECT_EQ(added, line["added"]) << name;
    size_t at = 0;
    for (const Json& text : golden_["texts"])
      for (const bool special : {false, true})
        EXPECT_EQ(read.tokenizer.encode(text.get<std::string>(), special),
                  line["encoded"][at++].get<std::vector<int32_t>>())
            << name << ": " << text;
  }

  const Json golden_ = read_json(MOERGE_SOURCE_DIR "/tests/golden/merge_tokenizers.json", 1 << 20);
  TempDir dir_;
};

TEST_F(Golden, IsWhatMergekitMakes) {
  int compared = 0;
  for (const Json& line : golden_["cases"]) {
    if (line.contains("error")) continue;
    const std::string yaml = line["yaml"], name = line["name"];
    const YamlNode root = parse_yaml(yaml, "m.yaml");
    const std::string base = text_of(root, "base_model");
    Models models;
    for (const std::string& model : names_of(models_in(root), base)) open(model, models);
    const MergedVocabulary vocabulary = merge_vocabularies(settings_of(yaml), base, models.listed);
    EXPECT_EQ(vocabulary.rows, line["rows"].get<int64_t>()) << name;
    EXPECT_EQ(vocabulary.config_changes["vocab_size"], line["rows"]) << name;
    expect_tokenizer(line, vocabulary);
    const DType dtype = find_dtype(text_of(root, "dtype"))->dtype;
    for (const auto& [tensor, expected] : line["tensors"].items()) {
      ByTokenTensors tensors = models.tensors(tensor);
      tensors.base = vocabulary.base;
      const auto found = in_vocabulary(vocabulary, tensors, dtype);
      for (size_t i = 0; i < models.listed.size(); i++) {
        const std::string& model = models.listed[i].reference;
        ASSERT_TRUE(found[i]) << name;
        for (const int64_t step : {1, 5, 1000})
          EXPECT_EQ(rows_of(*found[i], step), expected.at(model).get<TokenRows>())
              << name << ": " << tensor << " of " << model << ", " << step << " rows at a time";
        compared++;
      }
    }
  }
  EXPECT_GE(compared, 80);
}

// Tokens "a", "b", ... with the ids that are given.
std::string letters(const std::vector<std::pair<std::string, int>>& tokens,
                    const Json& added = Json::array()) {
  Json::object_t vocab;
  for (const auto& [text, id] : tokens) vocab.push_back({text, id});
  return Json({{"version", "1.0"},
               {"added_tokens", added},
               {"normalizer", nullptr},
               {"pre_tokenizer", nullptr},
               {"post_processor", nullptr},
               {"decoder", nullptr},
               {"model", {{"type", "BPE"}, {"vocab", Json(std::move(vocab))}, {"merges", Json::array()}}}})
      .dump();
}

class Rows : public ::testing::Test {
 protected:
  void add(const std::string& name, const std::string& tokenizer, int64_t rows, bool merged = true) {
    models_.add(vocabulary_model(dir_, name, {{"tokenizer.json", tokenizer}},
                                 numbered_rows(rows, static_cast<float>(models_.opened.size() + 1))),
                merged);
  }
  std::vector<std::optional<StoredTensor>> rows(const std::string& yaml, const std::string& base,
                                                ByTokenTensors* tensors = nullptr) {
    vocabulary_ = merge_vocabularies(settings_of(yaml), base, models_.listed);
    ByTokenTensors all = models_.tensors(kEmbeddings);
    all.base = vocabulary_.base;
    return in_vocabulary(vocabulary_, tensors ? *tensors : all, DType::f32);
  }
  std::string error(const std::string& yaml, const std::string& base, ByTokenTensors* tensors = nullptr) {
    try {
      rows(yaml, base, tensors);
    } catch (const Error& error) {
      return error.message();
    }
    return "no error";
  }

  TempDir dir_;
  Models models_;
  MergedVocabulary vocabulary_;
};

TEST_F(Rows, WhatDoesNotChangeIsTheSource) {
  add("one", letters({{"a", 0}, {"b", 1}}), 2);
  add("two", letters({{"b", 0}, {"a", 1}}), 2);
  const auto found = rows("tokenizer_source: union\n", "one");
  EXPECT_TRUE(found[0]->is_plain());
  EXPECT_EQ(rows_of(*found[1]), (TokenRows{{2, 1, 201, -1}, {2, 0, 200, 0}}));
  EXPECT_FALSE(found[1]->is_plain());
  EXPECT_EQ(stored_sources(*found[1]).size(), 1u);
}

TEST_F(Rows, DescribesWhatIsComputed) {
  add("one", letters({{"a", 0}, {"b", 1}}), 2);
  add("two", letters({{"b", 0}, {"a", 1}}), 2);
  const auto how = [&](const std::string& yaml) { return rows(yaml, "one")[1]->derivation->how; };
  const std::string plain = how("tokenizer_source: union\n");
  EXPECT_NE(plain.find(" in the merged vocabulary ("), std::string::npos);
  EXPECT_EQ(plain, how("tokenizer_source: union\n"));
  EXPECT_NE(plain, how("tokenizer: {tokens: {a: {source: one, force: true}}}\n"));
  EXPECT_NE(how("tokenizer: {tokens: {a: {source: one, force: true}}}\n"),
            how("tokenizer: {tokens: {b: {source: one, force: true}}}\n"));
}

TEST_F(Rows, OfATensorThatOneModelLacks) {
  add("one", letters({{"a", 0}, {"b", 1}}), 2);
  add("two", letters({{"a", 0}, {"c", 1}}), 2);
  vocabulary_ = merge_vocabularies(settings_of("tokenizer_source: union\n"), "one", models_.listed);
  ByTokenTensors tensors = models_.tensors(kEmbeddings);
  tensors.base = 0;
  tensors.stored[0] = nullptr;
  const auto found = in_vocabulary(vocabulary_, tensors, DType::f32);
  EXPECT_FALSE(found[0]);
  EXPECT_EQ(rows_of(*found[1]), (TokenRows{{2, 0, 200, 0}, {0, 0, 0, 0}, {2, 1, 201, -1}}));
  const std::string said =
      error("tokenizer: {tokens: {b: {source: one}, c: {source: two}, a: {source: one, force: true}}}\n",
            "one", &tensors);
  EXPECT_NE(said.find("the row of token \"b\""), std::string::npos) << said;
  EXPECT_NE(said.find("the row of token \"a\""), std::string::npos) << said;
  EXPECT_NE(said.find("is to come from one, which has no such tensor"), std::string::npos) << said;
  EXPECT_EQ(said.find("token \"c\""), std::string::npos) << said;
  tensors.stored = {nullptr, nullptr};
  for (const auto& tensor : in_vocabulary(vocabulary_, tensors, DType::f32)) EXPECT_FALSE(tensor);
}

TEST_F(Rows, FromAModelThatIsNotMerged) {
  add("one", letters({{"a", 0}, {"b", 1}}), 2);
  add("chat", letters({{"x", 0}, {"<tool>", 1}}), 2, false);
  ByTokenTensors tensors = models_.tensors(kEmbeddings);
  tensors.merged = {true, false};
  const auto found = rows("tokenizer: {tokens: {<tool>: {source: chat}}}\n", "one", &tensors);
  EXPECT_FALSE(found[1]);
  EXPECT_EQ(rows_of(*found[0]), (TokenRows{{1, 0, 100, 0}, {1, 1, 101, -1}, {2, 1, 201, -1}}));
  EXPECT_EQ(stored_sources(*found[0]).size(), 2u);
}

TEST_F(Rows, OfNoTokenAreTheMean) {
  add("gaps", letters({{"a", 0}, {"b", 3}}), 4);
  const auto found = rows("tokenizer: {source: base, pad_to_multiple_of: 5}\n", "gaps");
  const std::vector<float> mean = {1, 1.5f, 101.5f, -1.5f};
  EXPECT_EQ(rows_of(*found[0]), (TokenRows{{1, 0, 100, 0}, mean, mean, {1, 3, 103, -3}, mean}));
}

TEST_F(Rows, WithTwoTokensOfOneId) {
  add("one", letters({{"a", 0}, {"b", 1}}), 2);
  add("two", letters({{"a", 1}, {"b", 1}, {"c", 0}}), 2);
  EXPECT_EQ(rows_of(*rows("tokenizer_source: base\n", "one")[1]),
            (TokenRows{{2, 1, 201, -1}, {2, 1, 201, -1}}));
  EXPECT_EQ(rows_of(*rows("tokenizer_source: base\n", "two")[1]),
            (TokenRows{{2, 0, 200, 0}, {2, 1, 201, -1}}));
}

TEST_F(Rows, RefusesTensorsThatDoNotFit) {
  add("one", letters({{"a", 0}, {"b", 1}}), 2);
  add("two", letters({{"b", 0}, {"a", 1}}), 2);
  ByTokenTensors tensors = models_.tensors(kEmbeddings);
  const StoredTensor* const kept = tensors.stored[1];
  tensors.stored[1] = models_.opened[1]->checkpoint.find("model.layers.0.mlp.up_proj.weight");
  EXPECT_NE(error("tokenizer_source: union\n", "one", &tensors)
                .find("two: \"model.layers.0.mlp.up_proj.weight\" [4, 4] should have 2 rows"),
            std::string::npos);
  StoredTensor narrow = *kept;
  narrow.spec.shape = {2, 2};
  tensors.stored[1] = &narrow;
  EXPECT_NE(error("tokenizer_source: union\n", "one", &tensors).find("[2, 2] does not fit one's [2, 4]"),
            std::string::npos);
}

// As PyTorch 2.15 sums them; its values of 5000 rows (torch.mean, dim 0).
TEST_F(Rows, MeanOfManyIsSummedInSteps) {
  constexpr int64_t kRows = 5000;
  TokenRows rows;
  std::vector<std::pair<std::string, int>> tokens;
  uint32_t state = 1;
  for (int i = 0; i < kRows; i++) {
    std::vector<float>& row = rows.emplace_back();
    for (int j = 0; j < 4; j++) {
      state = state * 1664525u + 1013904223u;
      row.push_back(static_cast<float>(state >> 8) / 16777216.0f - (j == 0 ? 0.0f : 0.5f));
    }
    tokens.emplace_back("t" + std::to_string(i), i);
  }
  models_.add(vocabulary_model(dir_, "many", {{"tokenizer.json", letters(tokens)}}, rows));
  const auto found = this->rows("tokenizer: {source: base, pad_to_multiple_of: 3}\n", "many");
  std::vector<float> mean(4);
  read_row_values(*found[0], kRows, 1, mean);
  EXPECT_EQ(mean, (std::vector<float>{0x1.fd3a36p-2f, 0x1.b15de6p-8f, -0x1.d060dep-8f, 0x1.1b39a6p-12f}));
}

}  // namespace
}  // namespace moerge
