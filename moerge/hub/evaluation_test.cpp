#include "moerge/hub/evaluation.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"

namespace moerge {
namespace {

std::vector<CardScore> scores(const std::string& json) {
  return parse_scores(parse_json(json, "r.json"), "r.json");
}

std::string message_of(const std::string& json) {
  try {
    scores(json);
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

TEST(Evaluation, OneScoreATask) {
  const auto found = scores(R"({
    "results": {
      "arc_challenge": {"alias": "arc_challenge", "acc,none": 0.5, "acc_stderr,none": 0.01,
                        "acc_norm,none": 0.55, "acc_norm_stderr,none": 0.02, "sample_len": 1172},
      "gsm8k": {"exact_match,flexible-extract": 0.4, "exact_match,strict-match": 0.3,
                "exact_match_stderr,strict-match": "N/A"},
      "wikitext": {"word_perplexity,none": 12.25, "byte_perplexity,none": 1.5},
      "old": {"acc": 0.25, "acc_stderr": 0.125},
      "empty": {"alias": "empty"}},
    "n-shot": {"arc_challenge": 25},
    "configs": {"arc_challenge": {"dataset_path": "allenai/ai2_arc", "dataset_name": "ARC-Challenge",
                                  "test_split": "test"}}})");
  ASSERT_EQ(found.size(), 4u);
  EXPECT_EQ(found[0].metric, "acc_norm");
  EXPECT_EQ(found[0].value, 0.55);
  EXPECT_EQ(found[0].error, 0.02);
  EXPECT_EQ(found[0].shots, 25);
  EXPECT_EQ(found[0].dataset, "allenai/ai2_arc");
  EXPECT_EQ(found[0].dataset_config, "ARC-Challenge");
  EXPECT_EQ(found[0].split, "test");
  EXPECT_EQ(found[1].metric, "exact_match");
  EXPECT_EQ(found[1].filter, "strict-match");
  EXPECT_EQ(found[1].value, 0.3);
  EXPECT_FALSE(found[1].error);
  EXPECT_EQ(found[2].metric, "word_perplexity");
  EXPECT_EQ(found[3].value, 0.25);
  EXPECT_EQ(found[3].error, 0.125);
}

TEST(Evaluation, AGroupWithAScoreHidesItsTasks) {
  const auto found = scores(R"({
    "results": {"mmlu": {"acc,none": 0.6}, "mmlu_law": {"acc,none": 0.5}, "mmlu_art": {"acc,none": 0.7},
                "agieval": {"alias": "agieval"}, "agieval_sat": {"acc,none": 0.4}},
    "group_subtasks": {"mmlu": ["mmlu_law", "mmlu_art"], "agieval": ["agieval_sat"], "mmlu_law": []}})");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].task, "mmlu");
  EXPECT_EQ(found[1].task, "agieval_sat");
}

TEST(Evaluation, KnowsTheDataOfWellKnownTasks) {
  const auto found = scores(R"({
    "results": {"truthfulqa_mc2": {"acc,none": 0.5}, "gsm8k": {"exact_match,strict-match": 0.25},
                "mine": {"acc,none": 0.5}},
    "configs": {"gsm8k": {"dataset_path": "org/copy", "test_split": "all"}},
    "n-samples": {"mine": {"original": 100, "effective": 20}, "gsm8k": {"original": -1, "effective": "x"}}})");
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].metric, "mc2");
  EXPECT_EQ(found[0].dataset_name, "TruthfulQA");
  EXPECT_EQ(found[0].dataset, "truthfulqa/truthful_qa");
  EXPECT_EQ(found[0].dataset_config, "multiple_choice");
  EXPECT_EQ(found[0].split, "validation");
  EXPECT_EQ(found[0].harness, "");
  EXPECT_EQ(found[1].dataset_name, "GSM8K");
  EXPECT_EQ(found[1].dataset, "org/copy");
  EXPECT_EQ(found[1].dataset_config, "");
  EXPECT_EQ(found[1].split, "all");
  EXPECT_EQ(found[1].items, 0);
  EXPECT_EQ(found[2].dataset_name, "");
  EXPECT_EQ(found[2].items, 20);
  EXPECT_EQ(found[2].all_items, 100);
}

TEST(Evaluation, SuitesOfMoergeEval) {
  const auto sections = suite_sections(parse_json(R"({"moerge": {"suites": [
    {"title": "Nous", "average": 43.5, "stderr": 0.75,
     "groups": [{"name": "AGIEval", "score": 40, "stderr": null}, {"name": "GPT4All", "score": null}]},
    {"title": "One", "groups": [{"name": "EQ-Bench", "score": 70}]}, {"title": "None", "groups": []}, 7]}})",
                                                  "r"));
  ASSERT_EQ(sections.size(), 2u);
  EXPECT_EQ(sections[0].heading, "Benchmark: Nous");
  ASSERT_EQ(sections[0].table->rows.size(), 3u);
  EXPECT_EQ(sections[0].table->rows[0][1].text, "40.00");
  EXPECT_EQ(sections[0].table->rows[1][1].text, "");
  EXPECT_EQ(sections[0].table->rows[2][0].text, "Average");
  EXPECT_EQ(sections[0].table->rows[2][2].text, "0.75");
  EXPECT_EQ(sections[1].table->rows.size(), 1u);
  EXPECT_TRUE(suite_sections(parse_json("{}", "r")).empty());
}

TEST(Evaluation, RefusesOtherFiles) {
  EXPECT_NE(message_of("[]").find("r.json: no object \"results\" in it"), std::string::npos);
  EXPECT_NE(message_of("{}").find("no object \"results\""), std::string::npos);
  EXPECT_NE(message_of(R"({"results": [1]})").find("no object \"results\""), std::string::npos);
  EXPECT_NE(message_of(R"({"results": {"a": 1}})").find("\"a\" should be an object, found number"),
            std::string::npos);
  EXPECT_NE(message_of(R"({"results": {"a": {"alias": "a"}}})").find("holds no number"), std::string::npos);
  EXPECT_NE(message_of(R"({"results": {}})").find("holds no number"), std::string::npos);
}

}  // namespace
}  // namespace moerge
