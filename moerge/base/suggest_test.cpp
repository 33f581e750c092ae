#include "moerge/base/suggest.h"

#include <gtest/gtest.h>

#include <array>

namespace moerge {
namespace {

constexpr std::array<std::string_view, 4> kWords = {"positive_prompts", "negative_prompts", "dtype",
                                                    "hidden"};

TEST(Suggest, FindsTheNearest) {
  EXPECT_EQ(nearest("positve_prompts", kWords), "positive_prompts");
  EXPECT_EQ(nearest("postive_prompt", kWords), "positive_prompts");
  EXPECT_EQ(nearest("dtpye", kWords), "dtype");
  EXPECT_EQ(nearest("HIDDEN", kWords), "hidden");
}

TEST(Suggest, StaysSilentWhenNothingIsClose) {
  EXPECT_EQ(nearest("slices", kWords), "");
  EXPECT_EQ(nearest(std::string(100000, 'x'), kWords), "");
  EXPECT_EQ(nearest("", kWords), "");
}

TEST(Suggest, Distance) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("abc", ""), 3);
  EXPECT_EQ(edit_distance("abc", "acb"), 1);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
}

}  // namespace
}  // namespace moerge
