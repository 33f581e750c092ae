#include "moerge/serve/chat_page.h"

#include <gtest/gtest.h>

namespace moerge {
namespace {

size_t count(std::string_view text, std::string_view what) {
  size_t found = 0;
  for (size_t at = 0; (at = text.find(what, at)) != std::string_view::npos; at += what.size()) found++;
  return found;
}

TEST(ChatPage, IsWholeAndLoadsNothing) {
  EXPECT_TRUE(chat_page().starts_with("<!doctype html>"));
  EXPECT_TRUE(chat_page().ends_with("</html>\n"));
  for (const char* outside : {" src=", "<script ", "@import", "url(", " style=\"", " onclick=\""})
    EXPECT_EQ(count(chat_page(), outside), 0) << outside;
}

TEST(ChatPage, PolicyNamesEachScript) {
  const size_t scripts = count(chat_page(), "<script>");
  EXPECT_GT(scripts, 0);
  EXPECT_EQ(count(chat_page_policy(), " 'sha256-"), scripts);
  EXPECT_TRUE(chat_page_policy().starts_with("default-src 'none';"));
  EXPECT_EQ(count(chat_page_policy(), "\n"), 0);  // it is a header's value
}

}  // namespace
}  // namespace moerge
