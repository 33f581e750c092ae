#include "moerge/moe/grow.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "moerge/base/error.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

using testing::TempDir;

std::string bytes_of(const std::vector<float>& values) {
  std::string out(values.size() * 4, '\0');
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

// Old rows of lengths 5 and 13: 9 on average.
class Grow : public ::testing::Test {
 protected:
  explicit Grow(std::vector<float> rows = {3, 4, 0, 5, 0, 12})
      : checkpoint_((dir_.write("model.safetensors",
                                testing::safetensors_bytes({{"router", "F32", {2, 3}, bytes_of(rows)}})),
                     dir_.path())) {}

  TempDir dir_;
  Checkpoint checkpoint_;
};

TEST_F(Grow, NewRowsAreAsLongAsTheOldOnes) {
  GateTable table(2, 3, 3);
  table.row(1, 0)[0] = 1;
  table.row(1, 1)[1] = -0.25f;
  table.row(1, 1)[2] = 0.25f;
  const std::vector<float> rows = router_rows(&checkpoint_.at("router"), table, table.experts, 1);
  const float half = 9 / std::sqrt(2.0f);
  const std::vector<float> expected = {3, 4, 0, 5, 0, 12, 9, 0, 0, 0, -half, half, 0, 0, 0};
  ASSERT_EQ(rows.size(), expected.size());
  for (size_t i = 0; i < rows.size(); i++) EXPECT_FLOAT_EQ(rows[i], expected[i]) << i;
}

TEST_F(Grow, ADenseBaseHasTheRowsAsTheyAre) {
  GateTable table(1, 2, 3);
  for (size_t i = 0; i < 6; i++) table.values[i] = static_cast<float>(i) / 7;
  EXPECT_EQ(router_rows(nullptr, table, table.experts, 0), table.values);
}

TEST(GrowDamaged, RowsWithoutALength) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const TempDir dir;
    dir.write("model.safetensors",
              testing::safetensors_bytes({{"router", "F32", {2, 1}, bytes_of({1, bad})}}));
    const Checkpoint checkpoint(dir.path());
    EXPECT_THROW(router_rows(&checkpoint.at("router"), GateTable(1, 1, 1), 1, 0), Error);
  }
}

}  // namespace
}  // namespace moerge
