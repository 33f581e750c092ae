// The tasks of tasks/*.yaml on items of our own. tests/eval/prompts.py compares real ones with lm-eval's.

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/eval/catalog.h"
#include "moerge/eval/items.h"

namespace moerge {
namespace {

using Texts = std::vector<std::string>;
using Gold = std::vector<int64_t>;

EvalItem item_of(const std::string& task, const std::string& row, bool as_published = false) {
  const TaskDocuments documents = {.test = {{parse_json(row, "row"), task + ", item 0"}}, .fewshot = {}};
  return make_items(TaskCatalog(as_published).find(task).at(0), documents, 0, -1).at(0);
}

TEST(BuiltinTasks, Arc) {
  const EvalItem item = item_of("arc_challenge", R"({"question": "What melts?", "answerKey": "2",
      "choices": {"text": ["Stone", "Ice"], "label": ["1", "2"]}})");
  EXPECT_EQ(item.contexts, Texts{"Question: What melts?\nAnswer:"});
  EXPECT_EQ(item.continuations, (Texts{" Stone", " Ice"}));
  EXPECT_EQ(item.gold, Gold{1});
}

TEST(BuiltinTasks, HellaSwag) {
  const EvalItem item =
      item_of("hellaswag", R"({"activity_label": "Baking", "ctx_a": "[header] Bread [title] Mix it.",
      "ctx_b": "then SHE", "label": "3", "endings": [" waits. ", "[step] eats  it.", "goes [title] away", "bakes."]})");
  EXPECT_EQ(item.contexts, Texts{"Baking: Bread. Mix it. Then she"});
  EXPECT_EQ(item.choices, (Texts{"waits.", " eats it.", "goes. away", "bakes."}));
  EXPECT_EQ(item.gold, Gold{3});
}

TEST(BuiltinTasks, WinograndeScoresTheRestAfterEitherName) {
  const EvalItem item =
      item_of("winogrande", R"({"sentence": "The cup is not in the box as the _ is full, see _.",
      "option1": "cup", "option2": "box", "answer": "2"})");
  EXPECT_EQ(item.contexts,
            (Texts{"The cup is not in the box as the cup", "The cup is not in the box as the box"}));
  EXPECT_EQ(item.continuations, (Texts{" is full, see _.", " is full, see _."}));
  EXPECT_EQ(item.gold, Gold{1});
  EXPECT_THROW(
      item_of("winogrande", R"({"sentence": "No gap.", "option1": "a", "option2": "b", "answer": "1"})"),
      Error);
}

TEST(BuiltinTasks, Mmlu) {
  const EvalItem item = item_of("mmlu_high_school_physics", R"({"question": " What falls?\n", "answer": 2,
      "subject": "high_school_physics", "choices": ["Air", "Light", "A stone", "Time"]})");
  EXPECT_EQ(item.contexts,
            Texts{"The following are multiple choice questions (with answers) about high school physics.\n\n"
                  "What falls?\nA. Air\nB. Light\nC. A stone\nD. Time\nAnswer:"});
  EXPECT_EQ(item.continuations, (Texts{" A", " B", " C", " D"}));
  EXPECT_EQ(item.gold, Gold{2});
}

TEST(BuiltinTasks, TruthfulQa) {
  const std::string row =
      R"({"question": "Is it?", "mc1_targets": {"choices": ["Yes", "No"], "labels": [1, 0]},
      "mc2_targets": {"choices": ["Yes", "No", "Indeed", "Never"], "labels": [1, 0, 1, 0]}})";
  const EvalItem one = item_of("truthfulqa_mc1", row), two = item_of("truthfulqa_mc2", row);
  EXPECT_EQ(one.gold, Gold{0});
  EXPECT_EQ(two.gold, (Gold{0, 2}));
  EXPECT_TRUE(one.contexts.at(0).ends_with("in Barcelona, Spain.\n\nQ: Is it?\nA:")) << one.contexts.at(0);
  EXPECT_EQ(one.contexts, two.contexts);
  EXPECT_EQ(two.choices.size(), 4u);
}

TEST(BuiltinTasks, Gpt4All) {
  EXPECT_EQ(item_of("boolq", R"({"passage": "Tin -- A metal.", "question": "is tin a metal", "label": 1})")
                .contexts,
            Texts{"Tin -- A metal.\nQuestion: is tin a metal?\nAnswer:"});
  EXPECT_EQ(
      item_of("piqa", R"({"goal": "To cut", "sol1": "use a spoon", "sol2": "use a knife", "label": 1})").gold,
      Gold{1});
  EXPECT_EQ(item_of("openbookqa", R"({"question_stem": "Rain is", "answerKey": " B",
      "choices": {"text": ["dry", "wet"], "label": ["A", "B"]}})")
                .gold,
            Gold{1});
}

TEST(BuiltinTasks, AgiEvalMayHaveSeveralRightChoices) {
  const EvalItem item =
      item_of("agieval_sat_math", R"({"query": "Q: 1?\nA:", "choices": ["(A)1", "(B)2"], "gold": [0, 1]})");
  EXPECT_EQ(item.gold, (Gold{0, 1}));
  EXPECT_EQ(item.continuations, (Texts{" (A)1", " (B)2"}));
}

TEST(BuiltinTasks, BigBenchPutsChoicesInItsOrder) {
  const EvalItem item = item_of("bigbench_geometric_shapes", R"({"input": "A path draws a",
      "target_scores": {"line": 0, "circle": 1, "kite": 0, "sector": 0, "hexagon": 1}})");
  // circle, hexagon, kite, line, sector in the order 1, 4, 2, 0, 3 of numpy's RandomState(42).permutation(5)
  EXPECT_EQ(item.choices, (Texts{"hexagon", "sector", "kite", "circle", "line"}));
  EXPECT_EQ(item.continuations, item.choices);
  EXPECT_EQ(item.gold, (Gold{0, 3}));
  EXPECT_EQ(item.contexts,
            Texts{"\nQ: A path draws a\n  choice: hexagon\n  choice: sector\n  choice: kite\n  choice: "
                  "circle\n  choice: line\nA: "});
}

TEST(BuiltinTasks, BigBenchOfTheHub) {
  const std::string row =
      R"({"inputs": "Q: Which?\nA:", "targets": ["b"], "multiple_choice_targets": ["a", "b", "c"],
      "multiple_choice_scores": [0, 1, 0]})";
  const EvalItem item = item_of("bigbench_logical_deduction_three_objects", row);
  EXPECT_EQ(item.contexts, Texts{"Q: Which?\nA: "});
  EXPECT_EQ(item.gold, Gold{1});
  EXPECT_EQ(item.doc["target_scores"], Json::parse(R"({"a": 0, "b": 1, "c": 0})"));
  // One data set has the items of three tasks.
  EXPECT_THROW(item_of("bigbench_logical_deduction_five_objects", row), Error);
}

TEST(BuiltinTasks, Generated) {
  const EvalItem sum = item_of("gsm8k", R"({"question": "1 + 1?", "answer": "It is 2.\n#### 2"})");
  EXPECT_EQ(sum.contexts, Texts{"Question: 1 + 1?\nAnswer:"});
  EXPECT_EQ(sum.target, "It is 2.\n#### 2");
  const EvalItem feeling =
      item_of("eq_bench", R"({"prompt": "How?", "reference_answer_fullscale": {"emotion1": "Joy"}})");
  EXPECT_EQ(feeling.contexts, Texts{"How?"});
  EXPECT_EQ(feeling.doc["reference_answer_fullscale"]["emotion1"], "Joy");
}

}  // namespace
}  // namespace moerge
