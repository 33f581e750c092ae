#include "moerge/base/utf8.h"

#include <gtest/gtest.h>

namespace moerge {
namespace {

TEST(IsUtf8, FollowsTheStandard) {
  for (const char* good :
       {"", "a", "\x7f", "é", "▁", "\xef\xbf\xbf", "😀", "\xf4\x8f\xbf\xbf", "\xed\x9f\xbf"})
    EXPECT_TRUE(is_utf8(good)) << good;
  for (const char* bad :
       {"\x80", "\xc0\x80", "\xc1\xbf", "\xc3", "\xe0\x80\x80", "\xe2\x96", "\xed\xa0\x80",
        "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "a\xe2\x28\xa1"})
    EXPECT_FALSE(is_utf8(bad)) << bad;
}

TEST(FindInvalidUtf8, SaysWhereTheCharacterBegins) {
  EXPECT_EQ(find_invalid_utf8("aé"), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("aé\xe2\x28\xa1"), 3u);
  EXPECT_EQ(find_invalid_utf8("a\xc3"), 1u);
}

}  // namespace
}  // namespace moerge
