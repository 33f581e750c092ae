#include "moerge/eval/results.h"

#include <gtest/gtest.h>

#include <cmath>

#include "moerge/base/error.h"
#include "moerge/hub/evaluation.h"

namespace moerge {
namespace {

TaskResult result_of(const std::string& task, std::vector<MetricScore> scores, int64_t items = 100) {
  TaskResult out;
  out.task.task = task;
  out.task.data = {.path = "org/data", .name = "part", .test_split = "test"};
  out.task.version = 1;
  out.items = out.all_items = items;
  out.scores = std::move(scores);
  return out;
}

MetricScore score_of(const std::string& metric, double value, std::optional<double> error = {},
                     const std::string& filter = "none") {
  return {.metric = metric, .filter = filter, .value = value, .error = error};
}

EvalReport report_of() {
  EvalReport report = {.model = "org/model",
                       .model_file = "model.gguf, F16",
                       .date = "2026-01-02T03:04:05Z",
                       .version = "1.2.3",
                       .seconds = 3725};
  report.tasks = {
      result_of("one", {score_of("acc", 0.5, 0.02), score_of("acc_norm", 0.4, 0.03)}, 100),
      result_of("two", {score_of("acc", 0.25, 0.03)}, 50),
      result_of("three", {score_of("acc", 0.75, 0.01)}, 400),
      result_of("math", {score_of("exact_match", 0.1, 0.01, "strict-match"),
                         score_of("exact_match", 0.2, 0.01, "flexible-extract")}),
      result_of("truth", {score_of("acc", 0.6, 0.01)}),
  };
  const Suite suite = {.suite = "s",
                       .title = "Suite",
                       .groups = {{"Mixed", {"one", "two"}, {"acc_norm", "acc"}},
                                  {"Plain", {"one", "two", "three"}, {"acc"}},
                                  {"Math", {"math"}, {"exact_match"}},
                                  {"Truth", {"truth"}, {"mc2"}}}};
  report.suites = {summarize(suite, report.tasks)};
  return report;
}

TEST(Reports, RoutingIsShownAndReadBack) {
  EvalReport report = report_of();
  report.expert_names = {"<b>code</b>", "a|b"};
  report.tasks[1].routing = TaskRouting{.items = 50, .layers = {{0, {30, 10}}, {1, {5, 5}}}};
  const EvalReport back = parse_report(report_json(report), "results.json");
  ASSERT_TRUE(back.tasks[1].routing);
  EXPECT_EQ(back.expert_names, report.expert_names);
  const std::string table = report_markdown(back);
  EXPECT_EQ(table, report_markdown(report));
  EXPECT_NE(table.find("the mean over 2 layers"), std::string::npos);
  EXPECT_NE(table.find("62.5"), std::string::npos) << table;
  EXPECT_NE(table.find("1 a\\|b"), std::string::npos) << table;
  const std::string page = report_page(std::span(&back, 1));
  EXPECT_NE(page.find("<h2>Routing</h2>"), std::string::npos);
  EXPECT_NE(page.find("0 &lt;b&gt;code"), std::string::npos);
  EXPECT_NE(page.find("x=\"62.50\" width=\"37.50\""), std::string::npos);

  report.tasks[1].routing->layers[0].tokens.assign(64, 1);  // more than there are columns for
  const std::string many = report_markdown(report);
  EXPECT_NE(many.find("Most chosen"), std::string::npos);
  EXPECT_NE(report_page(std::span(&report, 1)).find("(25.8)"), std::string::npos)
      << report_page(std::span(&report, 1));
}

TEST(Suites, PlainMeansOfPlainMeans) {
  const SuiteResult suite = report_of().suites[0];
  ASSERT_EQ(suite.groups.size(), 4u);
  EXPECT_DOUBLE_EQ(suite.groups[0].score.value(), (40 + 25) / 2.0);
  EXPECT_EQ(suite.groups[0].metric, "acc_norm, acc");
  EXPECT_DOUBLE_EQ(suite.groups[1].score.value(), 50);
  EXPECT_NEAR(suite.groups[1].error.value(), 1.2472191289246473, 1e-12);  // lm-eval: unweighted_mean_stderr
  EXPECT_NE(suite.groups[1].note.find("weighted by items, as lm-eval's groups are: 65.91 ± 0.86"),
            std::string::npos);
  EXPECT_DOUBLE_EQ(suite.groups[2].score.value(), 10);
  EXPECT_DOUBLE_EQ(suite.groups[3].score.value(), 60);
  EXPECT_DOUBLE_EQ(suite.average.value(), (32.5 + 50 + 10 + 60) / 4);
}

TEST(Suites, PooledAsInGroupsOfLmEval) {
  const std::vector<MetricScore> scores = {score_of("acc", .5, .02), score_of("acc", .25, .03),
                                           score_of("acc", .75, .01)};
  const MetricScore* const list[] = {&scores[0], &scores[1], &scores[2]};
  const int64_t items[] = {100, 50, 400};
  const PooledScore pooled = pool_by_items(list, items);
  EXPECT_NEAR(pooled.value, 65.90909090909091, 1e-10);           // lm-eval: aggregate_subtask_metrics
  EXPECT_NEAR(pooled.error.value(), 0.8575641786044128, 1e-10);  // lm-eval: pooled_sample_stderr
}

TEST(Suites, ATaskWithoutAScoreTakesTheAverage) {
  EvalReport report = report_of();
  report.tasks[1].error = "no such data set";
  report.tasks[1].scores.clear();
  report.tasks[3].scores = {score_of("eqbench_v2", 30)};
  report.tasks[3].scores[0].failed = "too few answers";
  const Suite suite = {
      .suite = "s",
      .title = "",
      .groups = {
          {"A", {"one", "two", "gone"}, {"acc"}}, {"B", {"math"}, {"eqbench_v2"}}, {"C", {"one"}, {"acc"}}}};
  const SuiteResult result = summarize(suite, report.tasks);
  EXPECT_EQ(result.title, "s");
  EXPECT_FALSE(result.groups[0].score);
  EXPECT_EQ(result.groups[0].missing, "two: no such data set; gone was not asked");
  EXPECT_EQ(result.groups[1].missing, "math: too few answers");
  EXPECT_DOUBLE_EQ(result.groups[2].score.value(), 50);
  EXPECT_FALSE(result.average);
}

TEST(Suites, ScoresThatArePercentStay) {
  const TaskResult eq =
      result_of("eq_bench", {score_of("eqbench", 73.5, 1.5), score_of("percent_parseable", 98)});
  const Suite suite = {
      .suite = "eq", .title = "EQ-Bench", .groups = {{"EQ-Bench", {"eq_bench"}, {"eqbench"}}}};
  EXPECT_DOUBLE_EQ(summarize(suite, std::span(&eq, 1)).average.value(), 73.5);
}

TEST(Suites, TheUsualScore) {
  const EvalReport report = report_of();
  EXPECT_EQ(headline_score(report.tasks[0])->metric, "acc_norm");
  EXPECT_EQ(headline_score(report.tasks[3])->filter, "strict-match");
  const std::vector<std::string> flexible = {"exact_match,flexible-extract"};
  EXPECT_EQ(headline_score(report.tasks[3], flexible)->value, 0.2);
  const std::vector<std::string> none = {"f1"};
  EXPECT_EQ(headline_score(report.tasks[3], none), nullptr);
}

// -------- Markdown

TEST(ReportMarkdown, SummaryThenATableForEachGroup) {
  EvalReport report = report_of();
  report.tasks[2].all_items = 1000;
  const std::string text = report_markdown(report);
  EXPECT_TRUE(
      text.starts_with("| Model     | Mixed | Plain |  Math | Truth | Average |\n"
                       "|-----------|------:|------:|------:|------:|--------:|\n"
                       "| org/model | 32.50 | 50.00 | 10.00 | 60.00 |   38.12 |\n\n### Mixed\n"))
      << text;
  for (const char* part :
       {"| one  | 1       |     0 |      acc | 50.00 | ± |   2.00 |\n", "Average: 32.50% (± 2.12)\n",
        "|      |         |       | acc_norm | 40.00 | ± |   3.00 |\n", "exact_match, strict-match | 10.00",
        "Items asked: three 400 of 1000.", "Average score: 38.12%", "Elapsed time: 01:02:05\n"}) {
    // Columns of numbers are set to the right; what is looked for is the row without its blanks.
    const auto squeezed = [](std::string row) {
      std::erase(row, ' ');
      return row;
    };
    EXPECT_NE(squeezed(text).find(squeezed(part)), std::string::npos) << part << text;
  }
}

TEST(ReportMarkdown, FailuresAreSaidAndNothingIsMarkup) {
  EvalReport report = report_of();
  report.model = "a|b<script>\x1b[31m`x`\n# y";
  report.tasks[1].error = "the Hub | refused";
  report.tasks[1].scores.clear();
  report.suites = {
      summarize({.suite = "s", .title = "S", .groups = {{"G", {"one", "two"}, {"acc"}}}}, report.tasks)};
  const std::string text = report_markdown(report);
  EXPECT_NE(text.find("a\\|b\\<script\\>\\\\x1b\\[31m\\`x\\` # y"), std::string::npos) << text;
  EXPECT_NE(text.find("No average: two: the Hub \\| refused\n"), std::string::npos);
  EXPECT_NE(text.find("### Other tasks\n"), std::string::npos);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
}

TEST(ReportMarkdown, TasksWithoutASuite) {
  EvalReport report = report_of();
  report.suites.clear();
  const std::string text = report_markdown(report);
  EXPECT_TRUE(text.starts_with("Model: org/model\n\n| Task ")) << text;
  EXPECT_EQ(text.find("###"), std::string::npos);
}

// -------- results.json

TEST(ReportJson, InLmEvalsShape) {
  EvalReport report = report_of();
  report.tasks[3].error = "no data";
  report.tasks[3].scores.clear();
  const Json json = report_json(report);
  EXPECT_EQ(json["results"]["one"]["acc,none"], 0.5);
  EXPECT_EQ(json["results"]["one"]["acc_stderr,none"], 0.02);
  EXPECT_EQ(json["results"]["one"]["sample_len"], 100);
  EXPECT_FALSE(json["results"].contains("math"));
  EXPECT_EQ(json["configs"]["one"]["dataset_path"], "org/data");
  EXPECT_EQ(json["n-shot"]["one"], 0);
  EXPECT_EQ(json["n-samples"]["three"]["effective"], 400);
  EXPECT_EQ(json["higher_is_better"]["one"]["acc"], true);
  EXPECT_EQ(json["date"], 1767323045.0);
  EXPECT_EQ(json["model_name_sanitized"], "org__model");
  // A group of one metric, and none of two.
  EXPECT_DOUBLE_EQ(json["results"]["plain"]["acc,none"].get<double>(), 0.5);
  EXPECT_NEAR(json["groups"]["plain"]["acc_stderr,none"].get<double>(), 0.012472191289246473, 1e-14);
  EXPECT_EQ(json["group_subtasks"]["plain"].size(), 3u);
  EXPECT_FALSE(json["results"].contains("mixed"));
}

TEST(ReportJson, ReadsBackWhatItWrote) {
  EvalReport report = report_of();
  report.tasks[0].data_revision = "0123";
  report.tasks[1].error = "why";
  report.tasks[1].scores.clear();
  report.tasks[4].scores.push_back(
      {.metric = "eqbench_v2", .filter = "none", .value = 3, .error = {}, .failed = "few"});
  report.tasks[4].all_items = 817;
  report.tasks[3].shots = 5;
  const EvalReport again = parse_report(report_json(report), "r.json");
  EXPECT_EQ(json_text(report_json(again)).substr(0, json_text(report_json(again)).find("\"configs\"")),
            json_text(report_json(report)).substr(0, json_text(report_json(report)).find("\"configs\"")));
  EXPECT_EQ(json_text(report_json(again)["moerge"]), json_text(report_json(report)["moerge"]));
  EXPECT_EQ(report_markdown(again).size(), report_markdown(report).size());
  EXPECT_EQ(again.model, "org/model");
  EXPECT_EQ(again.suites[0].groups[1].note, report.suites[0].groups[1].note);
}

// The members that lm-eval 0.4.13 writes, with numbers of ours.
constexpr const char* kLmEval = R"({
  "results": {
    "mmlu": {"name": "mmlu", "alias": "mmlu", "sample_len": 200, "acc,none": 0.3, "acc_stderr,none": 0.01,
             "sample_count": {"acc,none": 200}},
    "mmlu_law": {"alias": " - law", "name": "mmlu_law", "sample_len": 200, "acc,none": 0.3,
                 "acc_stderr,none": "N/A"},
    "wikitext": {"alias": "wikitext", "word_perplexity,none": 12.5, "word_perplexity_stderr,none": "N/A"}},
  "groups": {"mmlu": {"acc,none": 0.3}},
  "group_subtasks": {"mmlu": ["mmlu_law"], "wikitext": []},
  "configs": {"mmlu_law": {"dataset_path": "cais/mmlu", "test_split": "test", "metric_list": [{"metric": "acc"}]}},
  "versions": {"mmlu_law": 1.0, "mmlu": 2}, "n-shot": {"mmlu_law": 5},
  "higher_is_better": {"wikitext": {"word_perplexity": false}},
  "n-samples": {"mmlu_law": {"original": 1534, "effective": 200}},
  "config": {"model": "hf", "model_args": "pretrained=org/base,dtype=float32"},
  "date": 1767323045.5, "total_evaluation_time_seconds": "61.5"})";

TEST(ReportJson, ReadsWhatLmEvalWrites) {
  const EvalReport report = parse_report(parse_json(kLmEval, "r.json"), "r.json");
  EXPECT_EQ(report.model, "org/base");
  EXPECT_EQ(report.date, "2026-01-02T03:04:05Z");
  EXPECT_EQ(report.seconds, 61.5);
  ASSERT_EQ(report.tasks.size(), 2u);
  EXPECT_EQ(report.tasks[0].task.task, "mmlu_law");
  EXPECT_EQ(report.tasks[0].shots, 5);
  EXPECT_EQ(report.tasks[0].items, 200);
  EXPECT_EQ(report.tasks[0].all_items, 1534);
  ASSERT_EQ(report.tasks[0].scores.size(), 1u);
  EXPECT_FALSE(report.tasks[0].scores[0].error);
  EXPECT_FALSE(report.tasks[1].scores[0].higher_is_better);
}

TEST(ReportJson, RefusesOtherFiles) {
  for (const char* text :
       {"[]", "{}", "{\"results\": 1}", "{\"results\": {}}", "{\"results\": {\"a\": 1}}"}) {
    try {
      parse_report(parse_json(text, "r.json"), "r.json");
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input);
      EXPECT_TRUE(error.message().starts_with("r.json: ")) << error.message();
    }
  }
}

TEST(ReportJson, HostileMembersAreNoNumbers) {
  const EvalReport report = parse_report(
      parse_json(R"({"results": {"a": {"acc,none": 1, "x": null, "y,": [1], "acc_stderr,none": "NaN"}},
                     "n-shot": {"a": -5}, "n-samples": {"a": {"effective": 1e300, "original": "many"}},
                     "versions": [], "configs": {"a": 3}, "config": 7, "date": -1,
                     "moerge": {"suites": [3, {"groups": [4, {"tasks": [5]}]}], "tasks": [6, {"task": 7}]}})",
                 "r"),
      "r");
  ASSERT_EQ(report.tasks.size(), 1u);
  EXPECT_EQ(report.tasks[0].shots, 0);
  EXPECT_EQ(report.tasks[0].items, 0);
  EXPECT_EQ(report.tasks[0].scores.size(), 1u);
  EXPECT_FALSE(report_markdown(report).empty());
  EXPECT_FALSE(report_page(std::span(&report, 1)).empty());
}

TEST(ReportJson, ACardTakesIt) {
  EvalReport report = report_of();
  report.tasks.push_back(result_of("truthfulqa_mc2", {score_of("acc", 0.45, 0.02)}));
  report.tasks.back().all_items = 817;
  const std::vector<CardScore> scores = parse_scores(report_json(report), "r");
  const auto find = [&](const std::string& task) {
    return *std::ranges::find(scores, task, &CardScore::task);
  };
  EXPECT_EQ(find("truthfulqa_mc2").metric, "mc2");
  EXPECT_EQ(find("truthfulqa_mc2").dataset_name, "TruthfulQA");
  EXPECT_EQ(find("truthfulqa_mc2").all_items, 817);
  EXPECT_EQ(find("math").harness, "moerge eval 1.2.3");
  EXPECT_EQ(find("plain").value, 0.5);
  EXPECT_EQ(std::ranges::find(scores, "one", &CardScore::task), scores.end());
}

// -------- page

TEST(ReportPage, ComparesAndEscapes) {
  std::vector<EvalReport> reports(3, report_of());
  reports[1].model = "\"><img src=x onerror=alert(1)>";
  reports[2].model = "b&w\xff\x01";
  reports[1].tasks[1].error = "</p><script>x</script>";
  reports[1].tasks[1].scores.clear();
  reports[2].tasks[2].scores[0].value = 0.9;
  const std::string page = report_page(reports);
  EXPECT_TRUE(is_report_page(page));
  EXPECT_FALSE(is_report_page("<!doctype html>\n<html>"));
  EXPECT_NE(page.find("default-src 'none'; style-src 'sha256-"), std::string::npos);
  for (const char* bad : {"<script", "<img", "http:", "https:", " style=", "url(", "@import"})
    EXPECT_EQ(page.find(bad), std::string::npos) << bad;
  EXPECT_NE(page.find("&quot;&gt;&lt;img src=x"), std::string::npos);
  EXPECT_NE(page.find("b&amp;w\xef\xbf\xbd\\x01"), std::string::npos);
  EXPECT_NE(page.find("&lt;/p&gt;&lt;script&gt;"), std::string::npos);
  EXPECT_NE(page.find("<td class=\"best\">90.00 ± 1.00</td>"), std::string::npos);
  EXPECT_NE(page.find("<rect class=\"c2\" width=\"90.00\" height=\"8\"/><path class=\"range\" "
                      "d=\"M89.00 4H91.00M89.00 1.5V6.5M91.00 1.5V6.5\"/>"),
            std::string::npos);
  EXPECT_NE(page.find("prefers-color-scheme: dark"), std::string::npos);
}

TEST(ReportPage, BarsStayInsideAndOtherMetricsHaveNone) {
  EvalReport report = report_of();
  report.suites.clear();
  report.tasks = {result_of("eq_bench", {score_of("eqbench", -12.5, 3)}),
                  result_of("wikitext", {score_of("word_perplexity", 12.5)})};
  const std::string page = report_page(std::span(&report, 1));
  EXPECT_NE(page.find("width=\"0.00\""), std::string::npos);
  EXPECT_NE(page.find("-12.50 ± 3.00"), std::string::npos);
  EXPECT_NE(page.find("12.50"), std::string::npos);
  EXPECT_EQ(page.find("width=\"12.50\""), std::string::npos);
  EXPECT_NE(page.find("<h1>Evaluation of org/model</h1>"), std::string::npos);
  EXPECT_THROW(report_page(std::vector<EvalReport>(kMaxPageReports + 1, report)), Error);
}

}  // namespace
}  // namespace moerge
