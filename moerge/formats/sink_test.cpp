#include "moerge/formats/sink.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/formats/safetensors_sink.h"
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

TEST(ComparingSink, FindsEveryDifference) {
  const TempDir dir;
  SafetensorsSink sink(dir.path(), plan_shards(kSpecs, 20), {});
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
