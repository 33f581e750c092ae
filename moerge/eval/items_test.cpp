#include "moerge/eval/items.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/eval/python_text.h"
#include "moerge/eval/task_file.h"

namespace moerge {
namespace {

using Texts = std::vector<std::string>;
using Gold = std::vector<int64_t>;

Task task_of(std::string_view keys) {
  return parse_task(fmt::format("task: colours\ndataset_path: a/b\ntest_split: test\n{}", keys),
                    "colours.yaml");
}

Task choosing(std::string_view keys) {
  return task_of(fmt::format("output_type: multiple_choice\n{}", keys));
}

std::vector<Document> documents(const std::vector<std::string>& rows, std::string_view what = "item") {
  std::vector<Document> out;
  for (const std::string& row : rows)
    out.push_back({parse_json(row, "row"), fmt::format("colours, {} {}", what, out.size())});
  return out;
}

EvalItem item_of(const Task& task, const std::string& row) {
  return make_items(task, {.test = documents({row}), .fewshot = {}}, 0, -1).at(0);
}

std::string problem_of(const Task& task, const std::string& row, int64_t shots = 0,
                       const std::vector<std::string>& examples = {}) {
  try {
    make_items(task, {.test = documents({row}), .fewshot = documents(examples, "example")}, shots, -1);
  } catch (const Error& error) {
    return error.message();
  }
  return "none";
}

constexpr std::string_view kSky =
    R"({"thing": "The sky", "colours": ["red", "blue"], "colour": "blue", "number": 1,
  "digit": "1", "flags": [1], "right": ["red", "blue"], "label": ["A", "B"], "key": "B", "deep": {"text": ["up", "down"]}})";
const std::string kRow(kSky);

Gold gold_of(std::string_view target, std::string_view choices = "colours") {
  return item_of(choosing(fmt::format("doc_to_text: thing\ndoc_to_choice: '{}'\ndoc_to_target: '{}'\n",
                                      choices, target)),
                 kRow)
      .gold;
}

TEST(Items, TextsOfEveryKind) {
  const auto context = [](std::string_view text) {
    const Task task =
        choosing(fmt::format("doc_to_text: {}\ndoc_to_choice: colours\ndoc_to_target: number\n", text));
    return item_of(task, kRow).contexts;
  };
  EXPECT_EQ(context("thing"), Texts{"The sky"});                              // a member
  EXPECT_EQ(context("\"{{thing}} is\""), Texts{"The sky is"});                // a template
  EXPECT_EQ(context("\"{{thing}}\\n\""), Texts{"The sky\n"});                 // its last line end stays
  EXPECT_EQ(context("'{{ deep.text[0] }}'"), Texts{"up"});                    // an expression
  EXPECT_EQ(context("'{{number}}'"), Texts{"1"});                             // a number as text
  EXPECT_EQ(context("What is it?"), Texts{"What is it?"});                    // a text
  EXPECT_EQ(context("'{{ [colour, thing] }}'"), (Texts{"blue", "The sky"}));  // one for each choice
}

TEST(Items, ChoicesOfEveryKind) {
  const auto choices = [](std::string_view choice) {
    const Task task =
        choosing(fmt::format("doc_to_text: thing\ndoc_to_choice: {}\ndoc_to_target: '1'\n", choice));
    return item_of(task, kRow).choices;
  };
  EXPECT_EQ(choices("colours"), (Texts{"red", "blue"}));
  EXPECT_EQ(choices("'{{deep.text}}'"), (Texts{"up", "down"}));
  EXPECT_EQ(choices("'{{[thing, number]}}'"), (Texts{"The sky", "1"}));
  EXPECT_EQ(choices("[\"no\", \"yes\"]"), (Texts{"no", "yes"}));
  EXPECT_EQ(choices("{a: no, b: yes}"), (Texts{"no", "yes"}));
}

TEST(Items, RightChoicesOfEveryKind) {
  EXPECT_EQ(gold_of("number"), Gold{1});
  EXPECT_EQ(gold_of("0"), Gold{0});
  EXPECT_EQ(gold_of("{{digit}}"), Gold{1});
  EXPECT_EQ(gold_of("colour"), Gold{1});
  EXPECT_EQ(gold_of("{{colour}}"), Gold{1});
  EXPECT_EQ(gold_of("{{label.index(key)}}"), Gold{1});
  EXPECT_EQ(gold_of("{{[\"A\", \"B\"].index(key.strip())}}"), Gold{1});
  EXPECT_EQ(gold_of("{{\"AB\".index(key)}}"), Gold{1});
  EXPECT_EQ(gold_of("flags"), Gold{1});
  EXPECT_EQ(gold_of("right"), (Gold{0, 1}));
  EXPECT_EQ(gold_of("{{ \"[\" }}{% for c in colours %}{{loop.index0}},{% endfor %}]"), (Gold{0, 1}));
  EXPECT_EQ(gold_of("{{ number == 1 }}", "{{[\"False\", \"True\"]}}"), Gold{1});
  EXPECT_EQ(gold_of("digit", "{{[\"1\", \"2\"]}}"), Gold{0});      // of a member: the text of a choice
  EXPECT_EQ(gold_of("{{\"7\"}}", "{{[\"3\", \"7\"]}}"), Gold{1});  // digits that are no index
}

TEST(Items, ContinuationsBeginWithTheDelimiter) {
  const Task task = choosing("doc_to_text: thing\ndoc_to_choice: colours\ndoc_to_target: colour\n");
  EXPECT_EQ(item_of(task, kRow).continuations, (Texts{" red", " blue"}));
  const Task none =
      choosing("doc_to_text: thing\ndoc_to_choice: colours\ndoc_to_target: colour\ntarget_delimiter: ''\n");
  EXPECT_EQ(item_of(none, kRow).continuations, (Texts{"red", "blue"}));
}

TEST(Items, AnswersThatAreGenerated) {
  const Task task = task_of("doc_to_text: thing\ndoc_to_target: colour\ndescription: \"{{thing}}:\\n\"\n");
  const EvalItem item = item_of(task, kRow);
  EXPECT_EQ(item.target, "blue");
  EXPECT_EQ(item.contexts, Texts{"The sky:\nThe sky"});
  EXPECT_TRUE(item.choices.empty());
  EXPECT_EQ(item_of(task_of("doc_to_text: thing\ndoc_to_target: deep\n"), kRow).target,
            R"({"text":["up","down"]})");
}

// ------------------------------------------------------------------------------------------ process_docs

Json changed(std::string_view steps, const std::string& row) {
  const Task task = task_of(
      fmt::format("doc_to_text: x\ndoc_to_target: x\nprocess_docs:\n  - {{set: x, to: z}}\n{}", steps));
  return item_of(task, row).doc;
}

TEST(Items, Steps) {
  const std::string row = R"({"a": " one [title] two [x]  y ", "list": [" b", "a ", "c"], "n": [1, 0, 2]})";
  EXPECT_EQ(changed("  - {set: both, to: '{{a}}{{n[0]}}'}\n", row)["both"], " one [title] two [x]  y 1");
  EXPECT_EQ(changed("  - {set: all, to: '{{list}}'}\n", row)["all"], Json::parse(R"([" b", "a ", "c"])"));
  EXPECT_EQ(changed("  - {strip: list}\n", row)["list"], Json::parse(R"(["b", "a", "c"])"));
  EXPECT_EQ(changed("  - {replace: a, text: ' [title]', by: '. '}\n", row)["a"], " one.  two [x]  y ");
  EXPECT_EQ(changed("  - {remove: a, pattern: '\\[.*?\\]'}\n", row)["a"], " one  two   y ");
  EXPECT_EQ(changed("  - {replace: a, text: '  ', by: ' '}\n", R"({"a": "1   2"})")["a"],
            "1  2");  // one pass
  EXPECT_EQ(changed("  - {permute: list, seed: 42}\n", R"({"list": ["e", "d", "c", "b", "a"]})")["list"],
            Json::parse(R"(["b", "e", "c", "a", "d"])"));
  EXPECT_EQ(changed("  - {pair: scores, keys: list, values: n}\n", row)["scores"],
            Json::parse(R"({" b": 1, "a ": 0, "c": 2})"));
}

TEST(Items, ItemsThatATaskLeavesOut) {
  const Task task = task_of("doc_to_text: a\ndoc_to_target: a\nprocess_docs: [{keep: \"{{n == 3}}\"}]\n");
  const TaskDocuments rows = {
      .test = documents({R"({"a": "x", "n": 3})", R"({"a": "y", "n": 4})", R"({"a": "z", "n": 3})"}),
      .fewshot = {}};
  const std::vector<EvalItem> items = make_items(task, rows, 0, 2);
  ASSERT_EQ(items.size(), 2u);
  EXPECT_EQ(items[1].index, 2);
  EXPECT_EQ(items[1].contexts, Texts{"z"});
  for (const int64_t limit : {-1, 0, 1, 2, 3}) {
    int64_t all = -1;
    make_items(task, rows, 0, limit, &all);
    EXPECT_EQ(all, 2) << limit;
  }
  int64_t all = -1;
  make_items(task_of("doc_to_text: a\ndoc_to_target: a\n"), rows, 0, 1, &all);
  EXPECT_EQ(all, 3);
  EXPECT_EQ(problem_of(task, R"({"a": "x", "n": 1})"), "colours: the data set has no items");
}

TEST(Items, TextsAsPythonChangesThem) {
  EXPECT_EQ(capitalized("then HE Goes"), "Then he goes");
  EXPECT_EQ(capitalized(" x"), " x");
  EXPECT_EQ(capitalized(""), "");
  EXPECT_EQ(capitalized("\xc3\x89"
                        "COLE"),
            "\xc3\x89"
            "cole");
  EXPECT_EQ(stripped("\t\xc2\xa0 a b\xe3\x80\x80\n"), "a b");
  EXPECT_EQ(stripped("\x1c\xe2\x80\x83"), "");
}

// ---------------------------------------------------------------------------------------------- examples

const std::vector<std::string> kExamples = {R"({"q": "1", "a": "one"})", R"({"q": "2", "a": "two"})",
                                            R"({"q": "3", "a": "three"})", R"({"q": "4", "a": "four"})"};

TEST(Items, ExamplesInFront) {
  const Task task =
      task_of("fewshot_split: train\ndoc_to_text: 'Q{{q}}'\ndoc_to_target: a\ndescription: \"D\\n\"\n");
  const std::vector<EvalItem> items =
      make_items(task,
                 {.test = documents({R"({"q": "5", "a": "five"})", R"({"q": "6", "a": "six"})"}),
                  .fewshot = documents(kExamples)},
                 2, -1);
  // Random(1234).sample(range(4), 2) of Python: 3, 0, then 0, 3.
  EXPECT_EQ(items.at(0).contexts, Texts{"D\nQ4 four\n\nQ1 one\n\nQ5"});
  EXPECT_EQ(items.at(1).contexts, Texts{"D\nQ1 one\n\nQ4 four\n\nQ6"});
}

TEST(Items, TheFirstExamples) {
  const Task task =
      task_of("fewshot_split: train\nfewshot_config: {sampler: first_n}\ndoc_to_text: q\ndoc_to_target: a\n");
  EXPECT_EQ(
      make_items(task, {.test = documents({R"({"q": "5", "a": "five"})"}), .fewshot = documents(kExamples)},
                 3, -1)
          .at(0)
          .contexts,
      Texts{"1 one\n\n2 two\n\n3 three\n\n5"});
}

TEST(Items, AnItemIsNoExampleOfItself) {
  const Task task = task_of("fewshot_split: test\ndoc_to_text: q\ndoc_to_target: a\n");
  const std::vector<EvalItem> items = make_items(task, {.test = documents(kExamples), .fewshot = {}}, 3, -1);
  ASSERT_EQ(items.size(), 4u);
  for (size_t i = 0; i < items.size(); i++) {
    const std::string& context = items[i].contexts.at(0);
    EXPECT_EQ(context.find(items[i].target), std::string::npos) << context;
    EXPECT_EQ(std::ranges::count(context, ' '), 3) << context;
  }
  const Task first =
      task_of("fewshot_split: test\nfewshot_config: {sampler: first_n}\ndoc_to_text: q\ndoc_to_target: a\n");
  EXPECT_EQ(make_items(first, {.test = documents(kExamples), .fewshot = {}}, 1, -1).at(0).contexts,
            Texts{"2 two\n\n1"});
}

TEST(Items, ExamplesOfPartialEvaluation) {
  const Task task = choosing(R"(fewshot_split: train
fewshot_config: {sampler: first_n}
doc_to_text: "{{ ['The ' ~ a, 'The ' ~ b] }}"
doc_to_choice: "{{ [rest, rest] }}"
doc_to_target: n
)");
  const std::string row = R"({"a": "cat", "b": "dog", "rest": "barks.", "n": 1})";
  const EvalItem item =
      make_items(task, {.test = documents({row}), .fewshot = documents({row})}, 1, -1).at(0);
  EXPECT_EQ(item.contexts, (Texts{"The dog barks.\n\nThe cat", "The dog barks.\n\nThe dog"}));
  EXPECT_EQ(item.continuations, (Texts{" barks.", " barks."}));
}

// ------------------------------------------------------------------------------------------------ errors

TEST(Items, NamesTaskAndItem) {
  const auto wrong = [](std::string_view keys, const std::string& row = kRow) {
    return problem_of(choosing(keys), row);
  };
  const auto target = [&](std::string_view value, const std::string& row = kRow) {
    return wrong(fmt::format("doc_to_text: thing\ndoc_to_choice: colours\ndoc_to_target: '{}'\n", value),
                 row);
  };
  EXPECT_EQ(wrong("doc_to_text: '{{thinh}} is'\ndoc_to_choice: colours\ndoc_to_target: number\n"),
            "colours, item 0: doc_to_text fails: \"thinh\" is not defined");
  EXPECT_EQ(wrong("doc_to_text: '{{thinh}}'\ndoc_to_choice: colours\ndoc_to_target: number\n"),
            "colours, item 0: doc_to_text fails: \"thinh\" is not defined");
  EXPECT_EQ(
      wrong("doc_to_text: thinh\ndoc_to_choice: colours\ndoc_to_target: number\n"),
      "colours, item 0: doc_to_text is \"thinh\", and there is no such member (did you mean \"thing\"?)");
  EXPECT_NE(wrong("doc_to_text: '{{thing'\ndoc_to_choice: colours\ndoc_to_target: number\n")
                .find("colours, item 0: doc_to_text fails: it is no valid template"),
            std::string::npos);
  EXPECT_EQ(wrong("doc_to_text: thing\ndoc_to_choice: thing\ndoc_to_target: number\n"),
            "colours, item 0: doc_to_choice should give a list of texts, found string");
  EXPECT_EQ(wrong("doc_to_text: thing\ndoc_to_choice: '{{[thing, colors]}}'\ndoc_to_target: number\n"),
            "colours, item 0: doc_to_choice fails: \"colors\" is not defined");
  EXPECT_EQ(wrong("doc_to_text: '{{colours + colours}}'\ndoc_to_choice: colours\ndoc_to_target: number\n"),
            "colours, item 0: doc_to_text gives a list of 4, and there are 2 choices");
  EXPECT_EQ(wrong("doc_to_text: '{{deep.words.more}}.'\ndoc_to_choice: colours\ndoc_to_target: number\n"),
            "colours, item 0: doc_to_text asks for a member that is not there: {{deep.words.more}}.");
  EXPECT_EQ(target("{{number + 4}}"),
            "colours, item 0: the answer is choice 5, counted from 0, and there are 2");
  EXPECT_EQ(target("{{0 - 1}}"), "colours, item 0: the answer is choice -1, counted from 0, and there are 2");
  EXPECT_EQ(target("thing"),
            "colours, item 0: the answer \"The sky\" is none of the 2 choices (the first is \"red\")");
  EXPECT_EQ(target("{{label.index(thing)}}"),
            "colours, item 0: doc_to_target: \"The sky\" is not in [\"A\",\"B\"]");
  EXPECT_EQ(target("{{label.index(kee)}}"), "colours, item 0: doc_to_target fails: \"kee\" is not defined");
  EXPECT_EQ(target("colour", R"({"thing": "x", "colours": ["red"], "colour": ""})"),
            "colours, item 0: the item has no answer (doc_to_target: colour)");
  EXPECT_EQ(target("colour", R"({"thing": "x", "colours": ["red"], "colour": null})"),
            "colours, item 0: the item has no answer (doc_to_target: colour)");
  EXPECT_EQ(target("colour", R"({"thing": "x", "colours": ["red"], "colour": []})"),
            "colours, item 0: the item has no answer: doc_to_target gives an empty list");
  EXPECT_EQ(target("colour", "[1]"),
            "colours, item 0: an item should be an object with members, found array");
  EXPECT_EQ(target("colour", R"({"thing": "x", "colours": ["red", {}], "colour": "red"})"),
            "colours, item 0: doc_to_choice gives a list with object in it, where texts are expected");
  EXPECT_EQ(target("number", R"({"thing": {"a": 1}, "colours": ["red"], "number": 18446744073709551615})"),
            "colours, item 0: the answer is choice 18446744073709551615, counted from 0, and there are 1");
  EXPECT_EQ(problem_of(task_of("doc_to_text: a\ndoc_to_target: b\n"), R"({"a": "x", "b": null})"),
            "colours, item 0: the item has no answer (doc_to_target: b)");
}

TEST(Items, NamesTheStep) {
  const auto wrong = [](std::string_view step, const std::string& row = kRow) {
    return problem_of(
        task_of(fmt::format("doc_to_text: thing\ndoc_to_target: colour\nprocess_docs: [{}]\n", step)), row);
  };
  EXPECT_EQ(wrong("{strip: thinh}"),
            "colours, item 0: process_docs (strip thinh): there is no \"thinh\" (did you mean \"thing\"?)");
  EXPECT_EQ(wrong("{strip: deep}"),
            "colours, item 0: process_docs (strip deep): \"deep\" should be a text or a list of texts, found "
            "object");
  EXPECT_EQ(
      wrong("{strip: flags}"),
      "colours, item 0: process_docs (strip flags): \"flags\" should be a list of texts, found number in it");
  EXPECT_EQ(wrong("{permute: flags, seed: 1}"),
            "colours, item 0: process_docs (permute flags): \"flags\" should be a list of texts");
  EXPECT_EQ(wrong("{set: x, to: '{{thinh}}'}"),
            "colours, item 0: process_docs (set x) fails: \"thinh\" is not defined");
  EXPECT_EQ(wrong("{pair: x, keys: colours, values: flags}"),
            "colours, item 0: process_docs (pair x): keys and values should be lists of the same length");
  EXPECT_EQ(wrong("{keep: '{{thing}}'}"),
            "colours, item 0: process_docs (keep): should be true or false, found string");
}

TEST(Items, MoreShotsThanExamples) {
  const Task task = task_of("fewshot_split: train\ndoc_to_text: q\ndoc_to_target: a\n");
  const std::string row = R"({"q": "5", "a": "five"})";
  EXPECT_EQ(problem_of(task, row, 5, kExamples),
            "colours: 5 shots need 5 examples, and \"train\" has 4; give --shots a smaller number");
  EXPECT_EQ(problem_of(task, row, 1, {R"({"q": "5"})"}),
            "colours, example 0: doc_to_target is \"a\", and there is no such member (did you mean \"q\"?)");
  EXPECT_EQ(problem_of(task_of("doc_to_text: q\ndoc_to_target: a\n"), row, 1),
            "colours.yaml: colours: there are no examples for 1 shots: the task has no \"fewshot_split\"");
  const Task same = task_of("fewshot_split: test\ndoc_to_text: q\ndoc_to_target: a\n");
  EXPECT_EQ(problem_of(same, row, 1),
            "colours: 1 shots need 2 examples, and \"test\" has 1; give --shots a smaller number");
}

}  // namespace
}  // namespace moerge
