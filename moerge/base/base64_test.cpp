#include "moerge/base/base64.h"

#include <gtest/gtest.h>

namespace moerge {
namespace {

TEST(Base64, IsRfc4648) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64(std::string_view("\0\xff\xfe\n", 4)), "AP/+Cg==");
}

TEST(Base64, HasNoSeamBetweenItsPieces) {
  const std::string bytes(7 << 20, 'a');
  const std::string text = base64(bytes);
  ASSERT_EQ(text.size(), (bytes.size() + 2) / 3 * 4);
  EXPECT_EQ(text.find_first_not_of("YWFh"), text.size() - 3);  // of "YQ=="
}

}  // namespace
}  // namespace moerge
