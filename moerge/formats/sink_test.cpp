#include "moerge/formats/sink.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/formats/safetensors_sink.h"
#include "moerge/testing/tiny_model.h"
#include "moerge/testing/tiny_sink.h"

namespace moerge {
namespace {

using testing::kSpecs;
using testing::TempDir;
using testing::write_all;

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
