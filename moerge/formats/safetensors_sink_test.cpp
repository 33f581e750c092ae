#include "moerge/formats/safetensors_sink.h"

#include <gtest/gtest.h>

#include <functional>

#include "moerge/base/error.h"
#include "moerge/base/json.h"
#include "moerge/testing/tiny_model.h"
#include "moerge/testing/tiny_sink.h"

namespace moerge {
namespace {

using testing::bytes_of;
using testing::kSpecs;
using testing::TempDir;
using testing::write_all;

TEST(Shards, FillUpToTheLimit) {
  const std::vector<Shard> shards = plan_shards(kSpecs, 20);
  ASSERT_EQ(shards.size(), 3u);
  EXPECT_EQ(shards[0].file, "model-00001-of-00003.safetensors");
  EXPECT_EQ(shards[0].tensors, (std::vector<size_t>{0, 1}));
  EXPECT_EQ(shards[1].tensors, (std::vector<size_t>{2}));  // larger than the limit, alone
  EXPECT_EQ(plan_shards(kSpecs, 46).size(), 1u);
  EXPECT_EQ(plan_shards(kSpecs, 46)[0].file, "model.safetensors");
  EXPECT_EQ(plan_shards(kSpecs, 1).size(), 4u);
}

TEST(SafetensorsSink, WritesShardsAndIndex) {
  for (const int64_t limit : {1, 20, 1000}) {
    const TempDir dir;
    SafetensorsSink sink(dir.path(), plan_shards(kSpecs, limit), {});
    write_all(sink, kSpecs);
    const Checkpoint written(dir.path());
    ASSERT_EQ(written.tensors().size(), kSpecs.size());
    for (const TensorSpec& spec : kSpecs) {
      const std::string expected = bytes_of(spec);
      const auto found = written.at(spec.name).view().bytes;
      EXPECT_TRUE(std::ranges::equal(found, std::as_bytes(std::span(expected)))) << spec.name;
    }
    const bool index = std::filesystem::exists(dir / "model.safetensors.index.json");
    EXPECT_EQ(index, limit < 46);
    if (index) {
      EXPECT_EQ(read_json(dir / "model.safetensors.index.json")["metadata"]["total_size"], 46);
    }
  }
}

TEST(SafetensorsSink, CopiesFromFiles) {
  const TempDir dir;
  const MappedFile source(dir.write("source", "0123456789"));
  std::filesystem::create_directory(dir / "out");
  const std::vector<TensorSpec> specs = {{"a", DType::u8, {6}}};
  SafetensorsSink sink(dir / "out", plan_shards(specs, 1000), {});
  sink.begin(specs);
  sink.copy(0, 0, source, 4, 3);
  sink.copy(0, 3, source, 1, 3);
  sink.finish();
  const Checkpoint written(dir / "out");
  const auto bytes = written.at("a").view().bytes;
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), "456123");
}

class Resumed : public ::testing::Test {
 protected:
  // A run that ends after the first `tensors` from the back.
  void cut_off(int tensors) {
    WriteJournal journal(file_);
    journal.start({{"plan", "x"}});
    SafetensorsSink first(out_, plan_shards(kSpecs, 20), {.journal = &journal});
    first.begin(kSpecs);
    for (size_t i = kSpecs.size(); tensors-- > 0;) {
      const std::string bytes = bytes_of(kSpecs[--i]);
      first.put(i, 0, std::as_bytes(std::span(bytes)));
      first.complete(i);
    }
  }
  int resume() {
    WriteJournal journal(file_);
    EXPECT_EQ(journal.head(), (Json{{"plan", "x"}}));
    SafetensorsSink second(out_, plan_shards(kSpecs, 20), {.journal = &journal});
    return write_all(second, kSpecs);
  }
  void expect_whole() {
    const Checkpoint written(out_);
    for (const TensorSpec& spec : kSpecs) {
      const std::string expected = bytes_of(spec);
      EXPECT_TRUE(std::ranges::equal(written.at(spec.name).view().bytes, std::as_bytes(std::span(expected))))
          << spec.name;
    }
  }

  TempDir dir_;
  const std::filesystem::path out_ = dir_.write("out/x", "").parent_path(), file_ = dir_ / "journal";
};

TEST_F(Resumed, WritesWhatIsMissing) {
  for (int done = 0; done <= 4; done++) {
    cut_off(done);
    // Shards: {a, b}, {c}, {d}. A tensor is claimed when its shard is whole.
    EXPECT_EQ(resume(), done == 3 ? 2 : 4 - done) << done;
    expect_whole();
    EXPECT_EQ(resume(), 0);
  }
}

TEST_F(Resumed, ALineThatWasCutOffCountsAsNotWritten) {
  cut_off(2);
  const std::string text = read_file(file_, 1000);
  for (size_t length = 14; length < text.size(); length++) {
    write_file(file_, text.substr(0, length));
    const int missing = resume();
    EXPECT_GE(missing, 2);
    expect_whole();
    EXPECT_EQ(resume(), 0) << length;
  }
}

TEST_F(Resumed, AShardThatIsNotAsClaimedIsWrittenAnew) {
  const std::string file = "model-00002-of-00003.safetensors";
  const std::function<void()> damages[] = {
      [&] { std::filesystem::remove(out_ / file); }, [&] { std::filesystem::resize_file(out_ / file, 30); },
      [&] { write_file(out_ / file, std::string(read_file(out_ / file, 1000).size(), ' ')); },
      [&] {
        std::filesystem::rename(out_ / file, dir_ / "elsewhere");
        std::filesystem::create_symlink(dir_ / "elsewhere", out_ / file);
      }};
  for (const auto& damage : damages) {
    cut_off(4);
    damage();
    const bool link = std::filesystem::is_symlink(out_ / file);
    if (link) {
      EXPECT_THROW(resume(), Error);  // nothing is written through it
      std::filesystem::remove(out_ / file);
    } else {
      // Interrupted once more, right after the claim was taken back: nobody may believe it afterwards.
      WriteJournal journal(file_);
      SafetensorsSink(out_, plan_shards(kSpecs, 20), {.journal = &journal}).begin(kSpecs);
    }
    EXPECT_EQ(resume(), 1);
    expect_whole();
  }
}

TEST_F(Resumed, HostileClaimsAreNoClaims) {
  for (const char* line :
       {"{\"done\": [[0, 99999999999]]}", "{\"done\": [[3]]}", "{\"done\": 3}", "{\"done\": [[-1, 2]]}",
        "{\"done\": [[3, 0]]}", "{\"done\": [\"a\"]}", "[]", "3", "{\"done\": [[0, 3]]"}) {
    cut_off(0);
    write_file(file_, read_file(file_, 1000) + line + "\n");
    EXPECT_EQ(resume(), 4) << line;
    expect_whole();
  }
}

TEST_F(Resumed, PartsTouchTheirShardsAlone) {
  int written = 0;
  for (size_t part = 0; part < 3; part++) {
    WriteJournal journal(dir_ / ("journal" + std::to_string(part)));
    journal.start({});
    std::vector<bool> only(3);
    only[part] = true;
    SafetensorsSink mine(out_, plan_shards(kSpecs, 20), {.journal = &journal, .only = only});
    written += write_all(mine, kSpecs);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(out_), {}), static_cast<int64_t>(part) + 2);
  }
  EXPECT_EQ(written, 4);
  const std::vector<Shard> shards = plan_shards(kSpecs, 20);
  write_file(out_ / kShardIndex, shard_index(kSpecs, shards));
  for (const Shard& shard : shards) EXPECT_TRUE(is_shard_intact(out_, shard, kSpecs));
  expect_whole();
}

TEST_F(Resumed, OneRunAtATime) {
  const WriteJournal journal(file_);
  EXPECT_THROW(WriteJournal second(file_), Error);
}

}  // namespace
}  // namespace moerge
