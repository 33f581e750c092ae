// Values marked lm-eval are what its functions (0.4.13: api/metrics.py, filters/extraction.py,
// tasks/eq_bench/utils.py) give for the same input. tests/eval/answers.py compares hundreds more.
#include "moerge/eval/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "moerge/base/error.h"
#include "moerge/eval/eq_bench.h"
#include "moerge/eval/python_text.h"

namespace moerge {
namespace {

using Lls = std::vector<double>;

ItemAnswer answer_of(const Lls& values, size_t greedy = 99) {
  ItemAnswer out;
  for (size_t i = 0; i < values.size(); i++)
    out.choices.push_back({.value = values[i], .greedy = i == greedy, .tokens = 1});
  return out;
}

EvalItem item_of(std::vector<std::string> choices, std::vector<int64_t> gold) {
  EvalItem item;
  item.where = "task, item 3";
  item.choices = std::move(choices);
  item.gold = std::move(gold);
  item.doc = Json::object();
  return item;
}

Task task_of(const std::vector<std::string>& metrics, OutputType type = OutputType::multiple_choice) {
  Task task;
  task.task = "task";
  task.output_type = type;
  for (const std::string& metric : metrics) task.metric_list.push_back({.metric = metric});
  return task;
}

double score_of(const std::string& metric, const EvalItem& item, const ItemAnswer& answer) {
  const ItemScores scores = score_item(task_of({metric}), item, answer);
  EXPECT_EQ(scores.size(), 1u);
  return scores.begin()->second;
}

std::string message_of(const std::function<void()>& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

TEST(Metrics, LengthsAreCharactersOrBytes) {
  // lm-eval: argmax is 1; by characters (10, 2, 8) it is 0; by bytes (12, 2, 24) it is 2.
  const ItemAnswer answer = answer_of({-10.5, -10.25, -12.0});
  for (int64_t gold = 0; gold < 3; gold++) {
    const EvalItem item = item_of({"naïve café", "ab", "日本語のテキスト"}, {gold});
    EXPECT_EQ(score_of("acc", item, answer), gold == 1);
    EXPECT_EQ(score_of("mc1", item, answer), gold == 1);
    EXPECT_EQ(score_of("acc_norm", item, answer), gold == 0);
    EXPECT_EQ(score_of("acc_bytes", item, answer), gold == 2);
  }
}

TEST(Metrics, OfEqualLikelihoodsTheFirstIsTaken) {
  EXPECT_EQ(score_of("acc", item_of({"a", "b", "c"}, {1}), answer_of({-2, -1, -1})), 1);
  EXPECT_EQ(score_of("acc", item_of({"a", "b", "c"}, {2}), answer_of({-2, -1, -1})), 0);
}

TEST(Metrics, SeveralChoicesMayBeRight) {
  const EvalItem item = item_of({"a", "bb", "c"}, {0, 2});
  EXPECT_EQ(score_of("acc", item, answer_of({-3, -2, -1})), 1);
  EXPECT_EQ(score_of("acc", item, answer_of({-3, -1, -2})), 0);
  EXPECT_EQ(score_of("exact_match", item, answer_of({-3, -1, -2}, 2)), 1);
  EXPECT_EQ(score_of("exact_match", item, answer_of({-3, -1, -2}, 1)), 0);
}

TEST(Metrics, ProbabilityOfTheRightChoices) {
  const EvalItem item = item_of({"a", "b", "c", "d"}, {0, 1});
  EXPECT_NEAR(score_of("mc2", item, answer_of({-1, -2, -0.5, -3})), 0.43398071638967184, 1e-12);  // lm-eval
  // Where the harness divides 0 by 0.
  EXPECT_NEAR(score_of("mc2", item, answer_of({-1001, -1002, -1000.5, -1003})), 0.43398071638967184, 1e-12);
}

TEST(Metrics, GradeOfTheLikeliestChoice) {
  EvalItem item = item_of({"yes", "no", "perhaps"}, {0});
  item.doc = parse_json(R"({"target_scores": {"yes": 1, "no": 0, "perhaps": 0.5}})", "doc");
  EXPECT_EQ(score_of("multiple_choice_grade", item, answer_of({-3, -2, -1})), 0.5);
  EXPECT_EQ(score_of("multiple_choice_grade", item, answer_of({-1, -2, -1})), 1);
  item.doc["target_scores"].erase("no");
  EXPECT_EQ(message_of([&] {
              score_of("multiple_choice_grade", item, answer_of({-3, -1, -2}));
            }),
            "task, item 3: \"target_scores\" has no number for the choice \"no\"");
  item.doc = Json::object();
  EXPECT_NE(message_of([&] {
              score_of("multiple_choice_grade", item, answer_of({-3, -1, -2}));
            }).find("task, item 3: multiple_choice_grade needs an object \"target_scores\""),
            std::string::npos);
}

TEST(Metrics, LogsThatDoNotFitAreRefused) {
  EXPECT_NE(message_of([] {
              score_of("acc", item_of({"a", "b"}, {0}), answer_of({-1}));
            }).find("item 3: 2"),
            std::string::npos);
}

TEST(Metrics, NamesInReports) {
  const EvalItem item = item_of({"a", "b"}, {0});
  EXPECT_EQ(score_item(task_of({"mc2"}), item, answer_of({-1, -2})).begin()->first, "acc,none");
  const ItemScores both = score_item(task_of({"acc", "mc2"}), item, answer_of({-1, -2}));
  EXPECT_EQ(both.at("acc,none"), 1);
  EXPECT_NEAR(both.at("mc2,none"), 1 / (1 + std::exp(-1.0)), 1e-12);
}

TEST(Metrics, MeanAndStandardError) {
  std::vector<ItemScores> scores;
  for (const double value : {1.0, 0.0, 1.0, 1.0, 0.0, 0.5}) scores.push_back({{"acc,none", value}});
  const std::vector<MetricScore> means = aggregate(task_of({"acc"}), scores);
  ASSERT_EQ(means.size(), 1u);
  EXPECT_EQ(means[0].metric, "acc");
  EXPECT_EQ(means[0].filter, "none");
  EXPECT_DOUBLE_EQ(means[0].value, 0.5833333333333334);          // lm-eval
  EXPECT_DOUBLE_EQ(means[0].error.value(), 0.2006932429798716);  // lm-eval
  EXPECT_FALSE(aggregate(task_of({"acc"}), std::span(scores).first(1))[0].error);
}

TEST(Metrics, EveryMetricOfAKindIsComputed) {
  EvalItem item = item_of({"a", "b"}, {0});
  item.doc["target_scores"] = {{"a", 1}, {"b", 0}};
  for (const std::string_view metric : metric_names(OutputType::multiple_choice)) {
    EXPECT_GT(score_of(std::string(metric), item, answer_of({-1, -2}, 0)), 0.5) << metric;
    EXPECT_EQ(percent_factor(metric), 100) << metric;
  }
  EXPECT_FALSE(percent_factor("word_perplexity"));
}

// -------- generated answers

TEST(Filters, AsPythonFindsThem) {
  const AnswerFilter strict = {"strict-match", "#### (\\-?[0-9\\.\\,]+)"};
  const AnswerFilter flexible = {"flexible-extract", "(-?[$0-9.,]{2,})|(-?[0-9]+)", -1};
  const AnswerFilter third = {"third", "[0-9]", 2}, before_last = {"before last", "[0-9]", -2};
  // lm-eval, all of them
  EXPECT_EQ(filtered_answer(strict, "#### 1,234.\n#### 5"), "1,234.");
  EXPECT_EQ(filtered_answer(strict, "####5"), "[invalid]");
  EXPECT_EQ(filtered_answer(flexible, "3 apples and $1,000.50 or -7"), "-7");
  EXPECT_EQ(filtered_answer(flexible, "it costs $1,000."), "$1,000.");
  EXPECT_EQ(filtered_answer(flexible, "nothing"), "[invalid]");
  EXPECT_EQ(filtered_answer(third, "1 2 3 4"), "3");
  EXPECT_EQ(filtered_answer(before_last, "1 2 3 4"), "3");
  EXPECT_EQ(filtered_answer({"all", "a( *)b"}, "a  b"), "");
  EXPECT_EQ(filtered_answer({"none", ""}, " as it is "), " as it is ");
  EXPECT_EQ(filtered_answer(third, "1 2"), "[invalid]");  // lm-eval ends with an error
  EXPECT_EQ(filtered_answer(before_last, "1"), "[invalid]");
}

double match(const std::string& answer, const std::string& target, const TaskMetric& metric) {
  Task task = task_of({}, OutputType::generate_until);
  task.metric_list = {metric};
  EvalItem item;
  item.target = target;
  return score_item(task, item, {.text = answer}).at("exact_match,none");
}

TEST(ExactMatch, Options) {
  EXPECT_EQ(match("a", "a", {.metric = "exact_match"}), 1);
  EXPECT_EQ(match("a", "a ", {.metric = "exact_match"}), 0);
  EXPECT_EQ(match("A", "a", {.metric = "exact_match"}), 0);
  EXPECT_EQ(match("A", "a", {.metric = "exact_match", .ignore_case = true}), 1);
  EXPECT_EQ(match("ÄPFEL (rot)", "äpfel (rot)", {.metric = "exact_match", .ignore_case = true}),
            1);                                                                              // lm-eval
  EXPECT_EQ(match("Straße", "STRASSE", {.metric = "exact_match", .ignore_case = true}), 0);  // lm-eval
  EXPECT_EQ(match("Ä.", "ÄB", {.metric = "exact_match", .ignore_case = true}), 0);
  EXPECT_EQ(match("a.b!", "ab", {.metric = "exact_match", .ignore_punctuation = true}), 1);
  EXPECT_EQ(match("$1,000", "so #### 1000",
                  {.metric = "exact_match", .regexes_to_ignore = {",", "\\$", "(?s).*#### "}}),
            1);
}

TEST(ExactMatch, OneScoreForEachFilter) {
  Task task = task_of({}, OutputType::generate_until);
  task.filter_list = {{"strict-match", "#### ([0-9]+)"}, {"flexible-extract", "[0-9]+", -1}};
  task.metric_list = {{.metric = "exact_match", .regexes_to_ignore = {"(?s).*#### "}}};
  EvalItem item;
  item.target = "#### 18";
  const std::vector<ItemScores> scores = {score_item(task, item, {.text = "so 18"}),
                                          score_item(task, item, {.text = "#### 18"})};
  const std::vector<MetricScore> means = aggregate(task, scores);
  ASSERT_EQ(means.size(), 2u);
  EXPECT_EQ(means[0].filter, "strict-match");
  EXPECT_EQ(means[0].value, 0.5);
  EXPECT_EQ(means[1].filter, "flexible-extract");
  EXPECT_EQ(means[1].value, 1);
}

TEST(PythonText, BlanksAndLengths) {
  EXPECT_EQ(stripped(" \t\n\u00a0\u3000a b\u2009\x1f"), "a b");
  EXPECT_EQ(stripped("\u200b"), "\u200b");
  EXPECT_EQ(stripped(" \u0085 "), "");
  EXPECT_EQ(code_points("naïve 日本"), 8u);
}

// -------- EQ-Bench

class EqBench : public ::testing::Test {
 public:
  EqBench() {
    item_.where = "eq_bench, item 5";
    item_.doc = parse_json(R"({
      "reference_answer": {"emotion1": "Sad", "emotion2": "Glad", "emotion3": "Mad", "emotion4": "Bad",
        "emotion1_score": 2, "emotion2_score": 3, "emotion3_score": 0, "emotion4_score": 5},
      "reference_answer_fullscale": {"emotion1": "Sad", "emotion2": "Glad", "emotion3": "Mad",
        "emotion4": "Bad", "emotion1_score": 0, "emotion2_score": "6", "emotion3_score": 2,
        "emotion4_score": "7"}})",
                           "doc");
  }
  ItemScores scores(const std::string& text) const { return score_item(task_, item_, {.text = text}); }

  Task task_ =
      task_of({"eqbench", "percent_parseable", "eqbench_v2", "eqbench_v1"}, OutputType::generate_until);
  EvalItem item_;
};

TEST_F(EqBench, ScoresOfAnAnswer) {
  const ItemScores same = scores("Sad: 0\nGlad: 6\nMad: 2\nBad: 7");
  EXPECT_EQ(same.at("eqbench,none"), 100);
  EXPECT_EQ(same.at("percent_parseable,none"), 100);
  // Differences of 5, 6, 2 and 0: s-shaped up to 5, as it is above.
  const double by_hand = 10 * (10 - 0.7477 * (6.5 / (1 + std::exp(-1.2)) + 6 + 6.5 / (1 + std::exp(2.4))));
  const ItemScores other = scores("Sad: 5\nGlad: 0\nMad: 4\nBad: 7");
  EXPECT_NEAR(other.at("eqbench,none"), by_hand, 1e-9);
  EXPECT_NEAR(other.at("eqbench_v2,none"), by_hand, 1e-9);
  // Scaled to 3.125, 0, 2.5, 4.375 of 10: differences 1.125, 3, 2.5, 0.625.
  EXPECT_NEAR(other.at("eqbench_v1,none"), 10 * (10 - 7.25), 1e-9);
  EXPECT_EQ(scores("Sad: 1\nSad: 0\nGlad: 6\nMad: 2\nBad: 7").at("eqbench,none"), 100);
}

TEST_F(EqBench, UnreadableAnswers) {
  for (const char* text : {"", "Sad: 0\nGlad: 6\nMad: 2", "sad: 0\nGlad: 6\nMad: 2\nBad: 7",
                           "Sad:0 Glad:6 Mad:2 Bad:7", "Note: 4\nSad: 0\nGlad: 6\nMad: 2\nBad: 7"}) {
    const ItemScores found = scores(text);
    EXPECT_EQ(found.at("eqbench,none"), 0) << text;
    EXPECT_EQ(found.at("percent_parseable,none"), 0) << text;
    EXPECT_FALSE(found.contains("eqbench_v2,none")) << text;
    EXPECT_FALSE(found.contains("eqbench_v1,none")) << text;
  }
  const ItemScores nothing = scores("Sad: 0\nGlad: 0\nMad: 0\nBad: 0");
  EXPECT_TRUE(nothing.contains("eqbench_v2,none"));
  EXPECT_FALSE(nothing.contains("eqbench_v1,none"));
  EXPECT_EQ(scores("Sad: 0\nGlad: 6\nMad: 2\nBad: " + std::string(400, '9')).at("percent_parseable,none"), 0);
}

TEST_F(EqBench, TheReferenceMayBeATextOfPython) {
  item_.doc["reference_answer_fullscale"] =
      "{'emotion1': 'Sad', 'emotion2': \"Glad\", 'emotion3': 'Mad', 'emotion4': 'Bad', 'emotion1_score': 0, "
      "'emotion2_score': '6', 'emotion3_score': 2, 'emotion4_score': '7'}";
  EXPECT_EQ(scores("Sad: 0\nGlad: 6\nMad: 2\nBad: 7").at("eqbench,none"), 100);
  item_.doc["reference_answer_fullscale"] = "{'emotion1': 'Sad', 'emotion1_score': 'much'}";
  EXPECT_NE(message_of([&] { scores(""); })
                .find("eq_bench, item 5: EQ-Bench's reference answer: "
                      "\"emotion1_score\" should be a number, found \"much\""),
            std::string::npos);
  item_.doc["reference_answer_fullscale"] = 7;
  EXPECT_NE(
      message_of([&] { scores(""); }).find("item 5: EQ-Bench's reference answer has no \"emotion1_score\""),
      std::string::npos);
}

TEST_F(EqBench, ARunWithTooFewReadableAnswersHasFailed) {
  std::vector<ItemScores> all(5, scores("Sad: 0\nGlad: 6\nMad: 2\nBad: 7"));
  all.push_back(scores(""));  // 83.33 %
  const auto find = [&](const std::string& metric) {
    for (const MetricScore& score : aggregate(task_, all))
      if (score.metric == metric) return score;
    return MetricScore();
  };
  EXPECT_EQ(find("eqbench_v2").value, 100);
  EXPECT_EQ(find("eqbench_v2").failed, "");
  EXPECT_NEAR(find("eqbench").value, 500.0 / 6, 1e-9);
  EXPECT_NEAR(find("percent_parseable").value, 500.0 / 6, 1e-9);
  all.push_back(scores(""));
  EXPECT_NE(find("eqbench_v2").failed.find("5 of 7 answers are readable (71.43 %)"), std::string::npos);
  EXPECT_EQ(find("eqbench").failed, "");
}

}  // namespace
}  // namespace moerge
