#include "moerge/eval/task_file.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "moerge/base/error.h"

namespace moerge {
namespace {

constexpr std::string_view kColours = R"(task: colours
dataset_path: someone/colours
test_split: test
output_type: multiple_choice
doc_to_text: "{{thing}} is"
doc_to_choice: [red, blue]
doc_to_target: colour
)";

std::string with(std::string_view more) { return std::string(kColours) + std::string(more); }

std::string problems_of(const std::string& text, const TaskFileOptions& options = {}) {
  try {
    parse_task_file(text, "my.yaml", options);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    return error.message();
  }
  return "none";
}

void expect_problem(std::string_view more, std::string_view sentence) {
  EXPECT_NE(problems_of(with(more)).find(sentence), std::string::npos) << problems_of(with(more));
}

TEST(TaskFile, ReadsATask) {
  const Task task = parse_task(with(R"(dataset_name: bright
dataset_revision: v2
description: "About {{thing}}.\n"
target_delimiter: ""
fewshot_split: train
num_fewshot: 2
fewshot_config: {sampler: first_n}
process_docs:
  - {strip: thing}
  - {replace: thing, text: "  ", by: " "}
  - {permute: list, seed: 42}
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata: {version: 1.5}
tag: [a, b]
)"),
                               "my.yaml");
  EXPECT_EQ(task.task, "colours");
  EXPECT_EQ(task.data.path, "someone/colours");
  EXPECT_EQ(task.data.name, "bright");
  EXPECT_EQ(task.data.revision, "v2");
  EXPECT_EQ(task.data.fewshot_split, "train");
  EXPECT_EQ(task.choices, (std::vector<std::string>{"red", "blue"}));
  EXPECT_EQ(task.description, "About {{thing}}.\n");
  EXPECT_EQ(task.target_delimiter, "");
  EXPECT_EQ(task.num_fewshot, 2);
  EXPECT_EQ(task.sampler, Task::Sampler::first_n);
  ASSERT_EQ(task.process_docs.size(), 3u);
  EXPECT_EQ(task.process_docs[1].text, "  ");
  EXPECT_EQ(task.process_docs[2].seed, 42u);
  ASSERT_EQ(task.metric_list.size(), 1u);
  EXPECT_EQ(task.version, 1.5);
}

TEST(TaskFile, ReadsATaskThatGenerates) {
  const Task task = parse_task(R"(task: sums
data_files: [sums.jsonl]
doc_to_text: question
doc_to_target: answer
generation_kwargs: {until: ["\n"], max_gen_toks: 20, do_sample: false, temperature: 0.0}
filter_list:
  - name: number
    filter:
      - {function: regex, regex_pattern: "[0-9]+", group_select: -1}
      - {function: take_first}
metric_list:
  - {metric: exact_match, ignore_case: true, regexes_to_ignore: [","]}
)",
                               "my.yaml");
  EXPECT_EQ(task.output_type, OutputType::generate_until);
  EXPECT_EQ(task.data.files, std::vector<std::string>{"sums.jsonl"});
  EXPECT_EQ(task.data.test_split, "test");
  EXPECT_EQ(task.until, std::vector<std::string>{"\n"});
  EXPECT_EQ(task.max_gen_toks, 20);
  ASSERT_EQ(task.filter_list.size(), 1u);
  EXPECT_EQ(task.filter_list[0].group_select, -1);
  EXPECT_TRUE(task.metric_list[0].ignore_case);
}

TEST(TaskFile, DefaultsAreThoseOfLmEval) {
  const Task task = parse_task(kColours, "my.yaml");
  EXPECT_EQ(task.target_delimiter, " ");
  EXPECT_EQ(task.fewshot_delimiter, "\n\n");
  EXPECT_EQ(task.num_fewshot, 0);
  ASSERT_EQ(task.metric_list.size(), 2u);
  EXPECT_EQ(task.metric_list[1].metric, "acc_norm");
  EXPECT_FALSE(task.fewshot_spare);
  const Task text =
      parse_task("{task: a, dataset_path: b, test_split: c, doc_to_text: d, doc_to_target: e}", "my.yaml");
  EXPECT_EQ(text.until, std::vector<std::string>{"\n\n"});
  EXPECT_EQ(text.metric_list[0].metric, "exact_match");
}

TEST(TaskFile, WhichSplitIsAsked) {
  const auto data_of = [](std::string_view splits) {
    return parse_task(
        fmt::format("{{task: a, dataset_path: b, doc_to_text: d, doc_to_target: e, {}}}", splits), "my.yaml");
  };
  const Task both = data_of("training_split: train, validation_split: validation");
  EXPECT_EQ(both.data.test_split, "validation");
  EXPECT_EQ(both.data.fewshot_split, "train");
  EXPECT_TRUE(both.fewshot_spare);  // neither test_split nor fewshot_split
  EXPECT_FALSE(data_of("training_split: train, test_split: test").fewshot_spare);
  EXPECT_TRUE(data_of("fewshot_split: test, test_split: test").fewshot_spare);
  EXPECT_FALSE(data_of("validation_split: validation, fewshot_split: train").fewshot_spare);
}

TEST(TaskFile, AllProblemsAtOnce) {
  EXPECT_EQ(
      problems_of(R"(task: colours
dataset_path: someone/colours
test_splitt: test
output_type: multiple_choise
doc_to_txt: "{{thing}} is"
doc_to_target: colour
nonsense: 1
)"),
      "my.yaml:3:1: unknown key \"test_splitt\" (did you mean \"test_split\"?)\n"
      "my.yaml:5:1: unknown key \"doc_to_txt\" (did you mean \"doc_to_text\"?)\n"
      "my.yaml:7:1: unknown key \"nonsense\"\n"
      "my.yaml:1:7: task \"colours\" has no \"test_split\": name the part of the data set whose items are "
      "asked\n"
      "my.yaml:4:14: output_type \"multiple_choise\" is not supported (did you mean \"multiple_choice\"?); "
      "multiple_choice and generate_until are\n"
      "my.yaml:1:7: task \"colours\" has no \"doc_to_text\": a template that makes an item's prompt");
}

TEST(TaskFile, RefusesWhatItCannotDo) {
  expect_problem("process_results: !function utils.score\n",
                 "my.yaml:8:18: \"!function\" is Python code, which cannot run here");
  expect_problem("process_results: mine\n", "\"process_results\" is not supported: it is Python code there");
  expect_problem("generation_kwargs: {until: x}\n",
                 "\"generation_kwargs\" needs \"output_type: generate_until\"");
  expect_problem("filter_list: []\n", "\"filter_list\" needs \"output_type: generate_until\"");
  expect_problem("metric_list: [{metric: acc_nrm}]\n",
                 "unknown metric \"acc_nrm\" (did you mean \"acc_norm\"?)");
  expect_problem("metric_list: [{metrik: acc}]\n",
                 "\"metrik\" of a metric is not supported here (did you mean \"metric\"?)");
  expect_problem("repeats: 3\n", "\"repeats\" can only be 1");
  expect_problem("num_fewshot: -1\n", "\"num_fewshot\" cannot be -1");
  expect_problem("num_fewshot: 2\n", "task \"colours\" has no \"fewshot_split\"");
  expect_problem("fewshot_config: {sampler: frist_n}\n",
                 "unknown sampler \"frist_n\" (did you mean \"first_n\"?)");
  expect_problem("fewshot_config: {samples: []}\n",
                 "\"samples\" of \"fewshot_config\" is not supported here");
  expect_problem("data_files: {test: a.jsonl}\n", "\"data_files\" should be a list of files");
  expect_problem("include: other.yaml\n", "files cannot be included here");
  expect_problem("process_docs: [{strp: a}]\n",
                 "unknown step \"strp\" of \"process_docs\" (did you mean \"strip\"?)");
  expect_problem("process_docs: [{replace: a, by: b}]\n", "the step \"replace\" needs \"text\"");
  expect_problem("process_docs: [{remove: a, pattern: \"[\"}]\n", "my.yaml:8:");
  expect_problem("process_docs: [{permute: a, seed: -1}]\n",
                 "\"seed\" should be from 0 to 2^32 - 1, found -1");
  expect_problem("process_docs: strip\n", "\"process_docs\" should be a list of steps");
  EXPECT_NE(problems_of("{task: ../a, dataset_path: b, test_split: c, doc_to_text: d, doc_to_target: e}")
                .find("should be a name"),
            std::string::npos);
  EXPECT_NE(problems_of("[1]").find("a task file should be a map"), std::string::npos);
}

TEST(TaskFile, RefusesWaysToGenerateThatAreNotGreedy) {
  const auto problem = [](std::string_view more) {
    return problems_of(
        fmt::format("task: a\ndataset_path: b\ntest_split: c\ndoc_to_text: d\ndoc_to_target: e\n{}\n", more));
  };
  EXPECT_NE(problem("generation_kwargs: {do_sample: true}").find("not sampled"), std::string::npos);
  EXPECT_NE(problem("generation_kwargs: {temperature: 0.7}").find("can only be 0"), std::string::npos);
  EXPECT_NE(problem("generation_kwargs: {max_gen_toks: 0}").find("at least 1"), std::string::npos);
  EXPECT_NE(problem("filter_list: [{name: a, filter: [{function: lowercase}]}]")
                .find("\"lowercase\" is not supported"),
            std::string::npos);
  EXPECT_NE(problem("doc_to_choice: [a]").find("needs \"output_type: multiple_choice\""), std::string::npos);
}

TEST(TaskFile, IncludesAndReplaces) {
  const TaskFileOptions options = {.include = [](const std::string& name, const std::string& file) {
    EXPECT_EQ(file, "my.yaml");
    if (name != "colours.yaml") fail(ErrorKind::config, "there is no \"{}\"", name);
    return IncludedFile{with("fewshot_split: train\nmetadata: {version: 1}\n"), "colours.yaml"};
  }};
  const Task task = parse_task(
      "include: colours.yaml\ntask: mine\nfewshot_split: null\nmetadata: {version: 2}\n", "my.yaml", options);
  EXPECT_EQ(task.task, "mine");
  EXPECT_EQ(task.version, 2);
  EXPECT_EQ(task.doc_to_text, "{{thing}} is");
  EXPECT_EQ(task.data.fewshot_split, "");  // null takes it away
  EXPECT_EQ(
      problems_of("include: other.yaml\ntask: a", options).find("my.yaml:1:10: there is no \"other.yaml\"\n"),
      0u);
  // A problem is told where it is, once.
  const TaskFileOptions broken = {.include = [](const std::string&, const std::string&) {
    return IncludedFile{with("target_delimitr: ''\n"), "colours.yaml"};
  }};
  EXPECT_EQ(problems_of("include: colours.yaml\n", broken),
            "colours.yaml:8:1: unknown key \"target_delimitr\" (did you mean \"target_delimiter\"?)");
  const TaskFileOptions endless = {.include = [](const std::string& name, const std::string&) {
    return IncludedFile{"include: again.yaml", name};
  }};
  EXPECT_NE(problems_of("include: again.yaml", endless).find("more than 8 files include one another"),
            std::string::npos);
}

TEST(TaskFile, GroupsShareKeys) {
  std::string text = with("");
  text.replace(0, text.find('\n'),
               "group: all\ntask:\n  - {task: one}\n  - {task: two, dataset_name: second}");
  const TaskFile file = parse_task_file(text, "my.yaml");
  EXPECT_EQ(file.group, "all");
  ASSERT_EQ(file.tasks.size(), 2u);
  EXPECT_EQ(file.tasks[1].task, "two");
  EXPECT_EQ(file.tasks[1].data.name, "second");
  EXPECT_EQ(file.tasks[0].doc_to_text, file.tasks[1].doc_to_text);
  EXPECT_NE(problems_of(text + "doc_to_image: x\n").find("\"doc_to_image\" is not supported: only texts"),
            std::string::npos);
  EXPECT_NE(problems_of("task: [{task: a}, {task: a}]").find("the group has two tasks \"a\""),
            std::string::npos);
  EXPECT_NE(problems_of("task: [{task: a}]").find("needs a \"group\""), std::string::npos);
}

TEST(TaskFile, AsPublished) {
  const std::string text = with("as_published:\n  doc_to_text: \"{{thing}}:\"\n");
  EXPECT_EQ(parse_task(text, "my.yaml").doc_to_text, "{{thing}} is");
  EXPECT_EQ(parse_task(text, "my.yaml", {.as_published = true}).doc_to_text, "{{thing}}:");
  expect_problem("as_published: {doc_to_txt: x}\n",
                 "unknown key \"doc_to_txt\"");  // also when it is not asked for
}

}  // namespace
}  // namespace moerge
