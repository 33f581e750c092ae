#include "moerge/formats/sink.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/base/json.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

using testing::TempDir;

const std::vector<TensorSpec> kSpecs = {
    {"a", DType::u8, {10}}, {"b", DType::u8, {10}}, {"c", DType::u8, {25}}, {"d", DType::u8, {1}}};

std::string bytes_of(const TensorSpec& spec) {
  return std::string(static_cast<size_t>(spec.bytes()), spec.name[0]);
}

void write_all(TensorSink& sink, std::span<const TensorSpec> specs) {
  sink.begin(specs);
  for (size_t i = specs.size(); i-- > 0;) {
    const std::string bytes = bytes_of(specs[i]);
    sink.put(i, 1, std::as_bytes(std::span(bytes)).subspan(1));
    sink.put(i, 0, std::as_bytes(std::span(bytes)).first(1));
  }
  sink.finish();
}

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
    SafetensorsSink sink(dir.path(), limit);
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
  SafetensorsSink sink(dir / "out", 1000);
  const std::vector<TensorSpec> specs = {{"a", DType::u8, {6}}};
  sink.begin(specs);
  sink.copy(0, 0, source, 4, 3);
  sink.copy(0, 3, source, 1, 3);
  sink.finish();
  const Checkpoint written(dir / "out");
  const auto bytes = written.at("a").view().bytes;
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), "456123");
}

TEST(ComparingSink, FindsEveryDifference) {
  const TempDir dir;
  SafetensorsSink sink(dir.path(), 20);
  write_all(sink, kSpecs);
  {
    const Checkpoint written(dir.path());
    ComparingSink same(written);
    write_all(same, kSpecs);
    ComparingSink fewer(written);
    EXPECT_THROW(write_all(fewer, std::span(kSpecs).first(3)), Error);
    std::vector<TensorSpec> other = kSpecs;
    other[0].shape = {2, 5};
    ComparingSink reshaped(written);
    EXPECT_THROW(write_all(reshaped, other), Error);
  }
  File file = File::create(dir / "model-00003-of-00003.safetensors");
  const std::string changed = testing::safetensors_bytes({{"d", "U8", {1}, "X"}});
  file.write_at(0, std::as_bytes(std::span(changed)));
  const Checkpoint damaged(dir.path());
  ComparingSink different(damaged);
  EXPECT_THROW(write_all(different, kSpecs), Error);
}

}  // namespace
}  // namespace moerge
