#include "moerge/eval/data_source.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/testing/parquet_bytes.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {

using testing::TempDir;

Task a_task(std::string name, std::string path = "org/name") {
  Task task;
  task.task = std::move(name);
  task.data = {.path = std::move(path), .test_split = "test", .fewshot_split = "train"};
  return task;
}

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

std::string texts(const std::vector<Document>& documents, const char* member = "q") {
  std::string out;
  for (const Document& it : documents) out += it.members.at(member).get<std::string>() + " ";
  return out;
}

TaskDocuments load(const Task& task, int64_t shots, const DataOptions& options) {
  Reporter reporter(Verbosity::quiet);
  return DataSource(options, reporter).load(task, shots);
}

TEST(Documents, OfJsonLines) {
  const TempDir dir;
  const auto rows =
      read_documents(dir.write("a.jsonl", "\xef\xbb\xbf{\"q\":\"x\"}\r\n\n  \n{\"q\":\"y\"}"), "task");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(texts(rows), "x y ");
  EXPECT_EQ(rows[1].where, "task, item 1 (a.jsonl:4)");
  EXPECT_EQ(read_documents(dir / "a.jsonl", "task", 7)[0].where, "task, item 7 (a.jsonl:1)");
}

TEST(Documents, OfJson) {
  const TempDir dir;
  EXPECT_EQ(texts(read_documents(dir.write("list.json", "[{\"q\":\"x\"},\n{\"q\":\"y\"}]"), "t")), "x y ");
  EXPECT_EQ(texts(read_documents(dir.write("data.json", "{\"version\":1,\n\"data\":[{\"q\":\"x\"}]}"), "t")),
            "x ");
  EXPECT_EQ(texts(read_documents(dir.write("one.json", "{\"examples\":[{\"q\":\"x\"}]}"), "t")), "x ");
  EXPECT_EQ(texts(read_documents(dir.write("lines.json", "{\"q\":\"x\"}\n{\"q\":\"y\"}\n"), "t")), "x y ");
}

TEST(Documents, ThatAreNone) {
  const TempDir dir;
  const auto problem = [&](const char* name, const char* text) {
    dir.write(name, text);
    return error_of([&] { read_documents(dir / name, "task"); });
  };
  EXPECT_EQ(problem("a.jsonl", "{}\n[1]\n"),
            "task, item 1 (a.jsonl:2): an item should be a JSON object, this is array");
  EXPECT_EQ(problem("a.json", "[{}, 5]"),
            "task, item 1 (a.json:row 2): an item should be a JSON object, this is number");
  EXPECT_NE(problem("a.jsonl", "{}\n{\n").find("task, item 1 (a.jsonl:2): "), std::string::npos);
  EXPECT_NE(problem("a.jsonl", " \n").find("a.jsonl has no items"), std::string::npos);
  EXPECT_NE(problem("a.json", "[]").find("a.json has no items"), std::string::npos);
  EXPECT_NE(problem("a.json", "{\"q\": 1}").find("should be a list of objects"), std::string::npos);
  EXPECT_NE(problem("a.csv", "q\n1\n").find("is no .jsonl, .json or .parquet file"), std::string::npos);
  EXPECT_NE(error_of([&] { read_documents(dir / "absent.jsonl", "task"); }).find("absent.jsonl"),
            std::string::npos);
}

TEST(Documents, OfParquet) {
  const TempDir dir;
  const auto rows = read_documents(dir.write("a.parquet", testing::parquet_bytes()), "task");
  ASSERT_EQ(rows.size(), std::size(testing::kParquetRows));
  for (size_t i = 0; i < rows.size(); i++) EXPECT_EQ(rows[i].members.dump(), testing::kParquetRows[i]);
  EXPECT_EQ(rows[2].where, "task, item 2 (a.parquet:row 3)");
}

TEST(Documents, OfParquetThatIsDamaged) {
  const TempDir dir;
  const std::string whole = testing::parquet_bytes();
  const auto problem = [&](const std::string& bytes) {
    dir.write("a.parquet", bytes);
    return error_of([&] { read_documents(dir / "a.parquet", "task"); });
  };
  const std::string where = "task: " + (dir / "a.parquet").string() + ": ";
  EXPECT_EQ(problem("no parquet at all"),
            where + "no Parquet file, or cut off: it should begin and end with PAR1");
  EXPECT_EQ(problem(whole.substr(0, 1000)),
            where + "no Parquet file, or cut off: it should begin and end with PAR1");
  EXPECT_EQ(problem("PARE" + whole + "PARE"), where + "an encrypted Parquet file");
  EXPECT_EQ(problem("PAR1\xff\xff\xff\x0fPAR1"), where + "its footer of 268435455 bytes cannot be");
  EXPECT_NE(problem(whole.substr(0, 4) + whole.substr(200)), "");
  // (tests/fuzz looks for those that are refused in another way, or not at all.)
}

TEST(DataSource, FilesOfTheUsersByTask) {
  const TempDir dir;
  dir.write("arc_easy.jsonl", "{\"q\":\"a\"}");
  dir.write("arc_easy.fewshot.jsonl", "{\"q\":\"shot\"}");
  dir.write("mmlu.jsonl", "{\"q\":\"m1\",\"subject\":\"high_school\"}\n{\"q\":\"m2\",\"subject\":\"law\"}\n");
  dir.write("mmlu.fewshot.jsonl", "{\"q\":\"s2\",\"subject\":\"law\"}\n");
  dir.write("bigbench/snarks.json", "[{\"q\":\"b\"}]");
  dir.write("arc.jsonl", "{\"q\":\"another\",\"subject\":\"physics\"}");
  const DataOptions options = {.folder = dir.path()};
  TaskDocuments found = load(a_task("arc_easy"), 5, options);
  EXPECT_EQ(texts(found.test), "a ");
  EXPECT_EQ(texts(found.fewshot), "shot ");
  EXPECT_EQ(found.revision, "");
  EXPECT_TRUE(load(a_task("arc_easy"), 0, options).fewshot.empty());
  found = load(a_task("mmlu_law"), 5, options);
  EXPECT_EQ(texts(found.test) + texts(found.fewshot), "m2 s2 ");
  EXPECT_EQ(texts(load(a_task("mmlu_high_school"), 0, options).test), "m1 ");
  EXPECT_EQ(texts(load(a_task("bigbench_snarks"), 0, options).test), "b ");

  EXPECT_EQ(
      error_of([&] { load(a_task("bigbench_snarks"), 3, options); }),
      fmt::format("bigbench_snarks: the examples before its items are those of the split \"train\", which "
                  "{0}.json does "
                  "not have: {0}.fewshot.jsonl is not there; add it, or ask without examples (--shots 0)",
                  (dir / "bigbench/snarks").string()));
  Task own = a_task("bigbench_snarks");
  own.data.fewshot_split = "test";
  EXPECT_EQ(texts(load(own, 3, options).fewshot), "b ");
  EXPECT_EQ(error_of([&] { load(a_task("arc_challenge"), 0, options); }),
            fmt::format("arc_challenge: {} has no items for it: neither arc_challenge.jsonl nor a folder "
                        "\"org/name\", a copy "
                        "of the data set's repository",
                        dir.path().string()));
}

TEST(DataSource, ACopyOfARepository) {
  const TempDir dir;
  dir.write(
      "org/name/README.md",
      "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: x/b*\n  - split: train\n"
      "    path: x/a.jsonl\n---\n");
  dir.write("org/name/x/a.jsonl", "{\"q\":\"a\"}");
  dir.write("org/name/x/b1.jsonl", "{\"q\":\"b1\"}\n{\"q\":\"b2\"}\n");
  dir.write("org/name/x/b2.parquet", testing::parquet_bytes());
  const TaskDocuments found = load(a_task("t"), 1, {.folder = dir.path()});
  ASSERT_EQ(found.test.size(), 5u);
  EXPECT_EQ(found.test[4].where, "t, item 4 (b2.parquet:row 3)");
  EXPECT_EQ(texts(found.fewshot), "a ");
  Task other = a_task("t");
  other.data.test_split = "dev";
  EXPECT_EQ(error_of([&] { load(other, 0, {.folder = dir.path()}); }),
            fmt::format("t: {} has no split \"dev\"; there are: test, train", (dir / "org/name").string()));
  EXPECT_NE(
      error_of([&] { load(a_task("t", "../name"), 0, {.folder = dir.path()}); }).find("has no items for it"),
      std::string::npos);
}

TEST(DataSource, FilesThatTheTaskNames) {
  const TempDir dir;
  dir.write("mine.jsonl", "{\"q\":\"a\"}");
  dir.write("train.jsonl", "{\"q\":\"shot\"}");
  Task task = a_task("mine");
  task.file = (dir / "mine.yaml").string();
  task.data.files = {"mine.jsonl"};
  EXPECT_EQ(texts(load(task, 0, {}).test), "a ");
  EXPECT_NE(error_of([&] { load(task, 1, {}); }).find("call it train.jsonl, say"), std::string::npos);
  dir.write("test.jsonl", "{\"q\":\"b\"}");
  task.data.files = {(dir / "test.jsonl").string(), "train.jsonl"};
  EXPECT_EQ(texts(load(task, 1, {}).test) + texts(load(task, 1, {}).fewshot), "b shot ");
  task.data.files = {"absent.jsonl"};
  EXPECT_NE(error_of([&] { load(task, 0, {}); }).find("there is no file"), std::string::npos);
}

TEST(DataSource, TheCacheWithoutTheHub) {
  const TempDir dir;
  const std::string commit(40, 'a'), folder = "datasets--org--name";
  dir.write(folder + "/refs/main", commit);
  dir.write(folder + "/snapshots/" + commit + "/test.jsonl", "{\"q\":\"a\"}");
  const DataOptions options = {.hub = {.cache = dir.path(), .offline = true}};
  const TaskDocuments found = load(a_task("t"), 0, options);
  EXPECT_EQ(texts(found.test), "a ");
  EXPECT_EQ(found.revision, commit);
  EXPECT_EQ(error_of([&] { load(a_task("t"), 1, options); }),
            "t: the data set \"org/name\" has no split \"train\"; there are: test");
  EXPECT_EQ(
      error_of([&] { load(a_task("t", "org/other"), 1, options); }),
      fmt::format(
          "t: the data set \"org/other\" (revision \"main\") is not in the cache {}, and HF_HUB_OFFLINE (or "
          "TRANSFORMERS_OFFLINE) is set: fetch it once without, or give files with --data",
          dir.path().string()));
  EXPECT_NE(error_of([&] { load(a_task("t", "a/b/c"), 1, options); }).find("is no data set of the Hub"),
            std::string::npos);
  // A list of all files, of which one is not there.
  dir.write(folder + "/trees/" + commit + ".json",
            R"({"format_version":1,"files":{"test.jsonl":{"size":10,"blob_id":")" + commit +
                R"("},"train.jsonl":{"size":10,"blob_id":")" + commit + R"("}}})");
  EXPECT_NE(error_of([&] {
              load(a_task("t"), 1, options);
            }).find("\"train.jsonl\" of the data set \"org/name\" is not in the cache"),
            std::string::npos);
}

}  // namespace
}  // namespace moerge
