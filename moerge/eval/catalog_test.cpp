#include "moerge/eval/catalog.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {

std::string refusal(const TaskCatalog& catalog, const std::string& what) {
  try {
    catalog.find(what);
  } catch (const Error& error) {
    return error.message();
  }
  return "none";
}

TEST(Catalog, HasTheSuites) {
  const TaskCatalog catalog;
  EXPECT_EQ(catalog.find("mmlu").size(), 57u);
  EXPECT_EQ(catalog.find("agieval").size(), 8u);
  EXPECT_EQ(catalog.find("gpt4all").size(), 7u);
  EXPECT_EQ(catalog.find("bigbench").size(), 18u);
  EXPECT_EQ(catalog.find("arc_easy").at(0).data.name, "ARC-Easy");
  EXPECT_EQ(catalog.find("arc_challenge").at(0).data.name, "ARC-Challenge");
  EXPECT_EQ(catalog.find("mmlu_anatomy").at(0).data.name, "anatomy");
  const std::vector<Suite> suites = catalog.suites("all");
  ASSERT_EQ(suites.size(), 3u);
  EXPECT_EQ(catalog.suite_names(), (std::vector<std::string_view>{"eq-bench", "nous", "openllm"}));
  const Suite nous = catalog.suites("nous").at(0), openllm = catalog.suites("openllm").at(0);
  EXPECT_EQ(nous.groups.size(), 4u);
  EXPECT_TRUE(nous.zero_shot);
  ASSERT_EQ(openllm.groups.size(), 6u);
  EXPECT_EQ(openllm.groups[2].tasks.size(), 57u);
  EXPECT_EQ(openllm.shots.at("arc_challenge"), 25);
  EXPECT_EQ(openllm.shots.at("mmlu_anatomy"), 5);
  for (const Suite& suite : suites)
    for (const SuiteGroup& group : suite.groups)
      for (const std::string& name : group.tasks) {
        const Task task = catalog.tasks().at(name);
        EXPECT_TRUE(std::ranges::any_of(task.metric_list, [&](const TaskMetric& metric) {
          return std::ranges::count(group.metrics, metric.metric) > 0;
        })) << name;
        // Its examples have to come from somewhere.
        const bool has_shots = suite.shots.contains(name) && suite.shots.at(name) > 0;
        EXPECT_TRUE(!has_shots || !task.data.fewshot_split.empty()) << name;
      }
}

TEST(Catalog, KnowsFaultsOfPublishedScores) {
  const std::string name = "bigbench_tracking_shuffled_objects_three_objects";
  EXPECT_NE(TaskCatalog().find(name).at(0).data.name, TaskCatalog(true).find(name).at(0).data.name);
  EXPECT_EQ(TaskCatalog(true).find("gsm8k").at(0).until.at(0), ":");
}

TEST(Catalog, SaysWhatThereIs) {
  const TaskCatalog catalog;
  EXPECT_NE(refusal(catalog, "arc_eazy").find("there is no task \"arc_eazy\" (did you mean \"arc_easy\"?)"),
            std::string::npos);
  EXPECT_NE(refusal(catalog, "mmul").find("did you mean \"mmlu\"?"), std::string::npos);
  EXPECT_EQ(refusal(catalog, "no/such.yaml"), "no/such.yaml: there is no such task file or folder");
  try {
    catalog.suites("nuos");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(
        error.message(),
        "there is no suite \"nuos\" (did you mean \"nous\"?); the suites are eq-bench, nous, openllm, all");
  }
}

TEST(Catalog, FindsFilesOfTheUser) {
  const testing::TempDir folder;
  write_file(folder / "mine.yaml", "include: _shared.yaml\ntask: mine\n");
  write_file(folder / "second.yml", "include: arc_easy.yaml\ntask: second\nnum_fewshot: 3\n");
  write_file(folder / "_shared.yaml",
             "dataset_path: a/b\ntest_split: test\ndoc_to_text: question\ndoc_to_target: answer\n");
  write_file(folder / "items.jsonl", "{}\n");
  const TaskCatalog catalog;
  EXPECT_EQ(catalog.find((folder / "mine.yaml").string()).at(0).task, "mine");
  const std::vector<Task> all = catalog.find(folder.path().string());
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[1].task, "second");  // what it includes is one of ours
  EXPECT_EQ(all[1].data.name, "ARC-Easy");
  EXPECT_NE(refusal(catalog, (folder / "items.jsonl").string()).find("a task file is YAML"),
            std::string::npos);
  write_file(folder / "mine.yaml", "include: gone.yaml\n");
  EXPECT_NE(refusal(catalog, folder.path().string())
                .find("mine.yaml:1:10: there is no file \"gone.yaml\" to include"),
            std::string::npos);
}

}  // namespace
}  // namespace moerge
