#include "moerge/eval/data_files.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"

namespace moerge {
namespace {

using Paths = std::vector<std::string>;

std::string shown(const std::vector<SplitFiles>& splits) {
  std::string out;
  for (const SplitFiles& it : splits) out += fmt::format("{}={} ", it.split, fmt::join(it.files, ","));
  return out;
}

std::string splits_of(const Paths& paths, std::string_view card = "", const std::string& configuration = "",
                      DataLayout layout = DataLayout::repository) {
  return shown(DataFiles(paths, card, layout, "the data set \"org/name\"").splits(configuration));
}

std::string problem_of(const Paths& paths, std::string_view card, const std::string& configuration,
                       const std::string& split = "test") {
  try {
    DataFiles(paths, card, DataLayout::repository, "the data set \"org/name\"").files(configuration, split);
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

TEST(Glob, StarsStayInTheirFolder) {
  EXPECT_TRUE(matches_glob("data/a.json", "data/*"));
  EXPECT_FALSE(matches_glob("data/x/a.json", "data/*"));
  EXPECT_TRUE(matches_glob("data/x/y/a.json", "data/**"));
  EXPECT_TRUE(matches_glob("a.json", "**/*.json"));
  EXPECT_TRUE(matches_glob("x/y/a.json", "**/*.json"));
  EXPECT_FALSE(matches_glob("a+json", "a.json"));
  EXPECT_TRUE(matches_glob("test-1", "test[-._ 0-9]?"));
  EXPECT_FALSE(matches_glob("testa1", "test[-._ 0-9]?"));
  EXPECT_TRUE(matches_glob("b", "[!a]"));
  EXPECT_FALSE(matches_glob("a", "[!a]"));
  EXPECT_TRUE(matches_glob("[", "["));
  EXPECT_THROW(matches_glob("a", "a**"), Error);
  // (Alternatives would have to be tried one by one.)
  EXPECT_FALSE(matches_glob(std::string(5000, 'a'), "*a*a*a*a*a*a*a*a*a*a*a*b"));
}

TEST(DataFiles, AreWhatTheCardSays) {
  const Paths paths = {"README.md",
                       "main/test-00000-of-00001.parquet",
                       "main/train-00001-of-00002.parquet",
                       "main/train-00000-of-00002.parquet",
                       "socratic/test-00000-of-00001.parquet",
                       "x/extra.jsonl"};
  constexpr std::string_view kCard =
      "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n"
      "  - split: test\n    path: main/test-*\n- config_name: socratic\n  data_files:\n  - split: test\n"
      "    path:\n    - socratic/*\n    - nothing/*\n- config_name: flat\n  data_dir: x\n  data_files: "
      "'*.jsonl'\n---\n# Text\n";
  EXPECT_EQ(splits_of(paths, kCard, "main"),
            "train=main/train-00000-of-00002.parquet,main/train-00001-of-00002.parquet "
            "test=main/test-00000-of-00001.parquet ");
  EXPECT_EQ(splits_of(paths, kCard, "socratic"), "test=socratic/test-00000-of-00001.parquet ");
  EXPECT_EQ(splits_of(paths, kCard, "flat"), "train=x/extra.jsonl ");
  EXPECT_EQ(problem_of(paths, kCard, ""),
            "the data set \"org/name\" has several configurations, and the task does not say which "
            "(dataset_name): main, "
            "socratic, flat");
  EXPECT_EQ(problem_of(paths, kCard, "mian"),
            "the data set \"org/name\" has no configuration \"mian\" (dataset_name); did you mean \"main\"?; "
            "there are: "
            "main, socratic, flat");
  EXPECT_EQ(problem_of(paths, kCard, "main", "tset"),
            "the data set \"org/name\" (configuration \"main\") has no split \"tset\"; did you mean "
            "\"test\"?; there are: "
            "train, test");
}

TEST(DataFiles, OfTheDefaultConfiguration) {
  const Paths paths = {"a.jsonl", "b.jsonl"};
  const auto card = [](std::string_view more) {
    return fmt::format(
        "---\nconfigs:\n- config_name: one\n  data_files: a.jsonl\n- config_name: {}\n  data_files: "
        "b.jsonl\n---\n",
        more);
  };
  EXPECT_EQ(splits_of(paths, card("default")), "train=b.jsonl ");
  EXPECT_EQ(splits_of(paths, card("two\n  default: true")), "train=b.jsonl ");
  EXPECT_EQ(splits_of(paths, "---\nconfigs:\n- config_name: one\n  data_files: a.jsonl\n---\n"),
            "train=a.jsonl ");
}

TEST(DataFiles, AreFoundByTheirNames) {
  EXPECT_EQ(splits_of({"data/test-00000-of-00001.parquet", "data/train-00000-of-00001-abc.parquet",
                       "data/extra-00000-of-00001.parquet"}),
            "train=data/train-00000-of-00001-abc.parquet test=data/test-00000-of-00001.parquet "
            "extra=data/extra-00000-of-00001.parquet ");
  EXPECT_EQ(splits_of({".gitattributes", "README.md", "data/dev.jsonl", "data/my_test.jsonl", "notes.txt"}),
            "validation=data/dev.jsonl test=data/my_test.jsonl ");
  EXPECT_EQ(splits_of({"test/a.jsonl", "test/.hidden/b.jsonl", "train_v1/x/b.jsonl"}),
            "train=train_v1/x/b.jsonl test=test/a.jsonl ");
  EXPECT_EQ(splits_of({"items.jsonl", "__pycache__/x.jsonl", "config.json"}), "train=items.jsonl ");
  // Read once, although it is both words.
  EXPECT_EQ(splits_of({"test_eval.jsonl"}), "test=test_eval.jsonl ");
}

TEST(DataFiles, AFolderIsAConfigurationWhereTheCardNamesNone) {
  const Paths paths = {"ARC/dev.jsonl", "ARC/test-00000-of-00002.parquet", "ARC/test-00001-of-00002.parquet",
                       "ARC/notes.txt", "other/test/a.json"};
  EXPECT_EQ(splits_of(paths, "", "ARC"),
            "dev=ARC/dev.jsonl test=ARC/test-00000-of-00002.parquet,ARC/test-00001-of-00002.parquet ");
  EXPECT_EQ(splits_of(paths, "", "other"), "test=other/test/a.json ");
  EXPECT_NE(problem_of(paths, "", "third").find("there are: default, ARC, other"), std::string::npos);
}

TEST(DataFiles, OfTheExport) {
  const Paths paths = {".gitattributes", "main/test/0000.parquet", "main/partial-train/0000.parquet",
                       "main/partial-train/0001.parquet"};
  EXPECT_EQ(
      splits_of(paths, "", "", DataLayout::exported),
      "train=main/partial-train/0000.parquet,main/partial-train/0001.parquet test=main/test/0000.parquet ");
  EXPECT_EQ(splits_of(paths, "", "main", DataLayout::exported),
            splits_of(paths, "", "", DataLayout::exported));
  EXPECT_EQ(splits_of({"default/test/0000.parquet", "x/test/0000.parquet"}, "", "", DataLayout::exported),
            "test=default/test/0000.parquet ");
  EXPECT_THROW(splits_of({"y/test/0000.parquet", "x/test/0000.parquet"}, "", "", DataLayout::exported),
               Error);
}

TEST(DataFiles, OfFormatsThatAreNotRead) {
  EXPECT_EQ(problem_of({"test.csv"}, "", ""),
            "the data set \"org/name\": \"test.csv\", its split \"test\", is no .jsonl, .json or .parquet "
            "file, which "
            "moerge reads");
  EXPECT_EQ(problem_of({}, "", ""), "the data set \"org/name\" has no split \"test\"; there are: none");
}

TEST(DataFiles, CardsThatAreWrong) {
  const auto card = [](std::string_view text) { return fmt::format("---\nconfigs:\n{}---\n", text); };
  EXPECT_NE(problem_of({"a.jsonl"}, card("- data_files: a.jsonl\n"), "")
                .find("line 3: a configuration without config_name"),
            std::string::npos);
  EXPECT_NE(problem_of({"a.jsonl"}, card("- config_name: a\n  data_files:\n  - split: test\n"), "")
                .find("split and path"),
            std::string::npos);
  EXPECT_NE(
      problem_of({"a.jsonl"}, card("- config_name: a\n  data_files: a**\n"), "").find("can only stand alone"),
      std::string::npos);
  // No YAML, or another kind of value: as if nothing were there.
  EXPECT_EQ(problem_of({"test.jsonl"}, "---\nconfigs: [\n---\n", ""), "");
  EXPECT_EQ(problem_of({"test.jsonl"}, "---\nconfigs: text\n---\n", ""), "");
}

}  // namespace
}  // namespace moerge
