#include "moerge/eval/regex.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"

namespace moerge {
namespace {

using Groups = Regex::Match;

std::string problem_of(std::string_view pattern) {
  try {
    Regex(pattern, "task.yaml:7:3");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.message();
  }
  return "";
}

TEST(Regex, FindsAllFromTheLeftWithTheirGroups) {
  const Regex regex(R"((-?[$0-9.,]{2,})|(-?[0-9]+))", "");
  EXPECT_EQ(regex.find_all("it is 7 of $1,234.50"),
            (std::vector<Groups>{{"7", std::nullopt, "7"}, {"$1,234.50", "$1,234.50", std::nullopt}}));
  EXPECT_EQ(regex.find_all("7 8 9", 2).size(), 2u);
  EXPECT_TRUE(regex.find_all("none").empty());
  EXPECT_TRUE(regex.find_all("").empty());
}

TEST(Regex, KnowsUnicodeAndKeepsAnEmptyGroupApartFromNone) {
  EXPECT_EQ(Regex(R"((\w+):\s+(\d+))", "").find_all("Ärger:\u00a0\u0667"),
            (std::vector<Groups>{{"Ärger:\u00a0\u0667", "Ärger", "\u0667"}}));
  EXPECT_EQ(Regex("(a?)(b)?", "").find_all("c", 1), (std::vector<Groups>{{"", "", std::nullopt}}));
}

TEST(Regex, ReplacesByExactlyTheText) {
  EXPECT_EQ(Regex(R"(\[.*?\])", "").replace_all("a [x] b [y]", "$0\\1"), "a $0\\1 b $0\\1");
  EXPECT_EQ(Regex(",", "").replace_all("1,234,567", ""), "1234567");
  EXPECT_EQ(Regex("(?s).*#### ", "").replace_all("so\n#### 18", ""), "18");
  EXPECT_EQ(Regex("", "").replace_all("ab", "-"), "-a-b-");
}

TEST(Regex, SaysWhatIsWrongWithAPattern) {
  EXPECT_EQ(problem_of("ä(b"),
            "task.yaml:7:3: \"ä(b\" is no regular expression: unclosed group (character 2)");
  EXPECT_NE(problem_of("a(?=b)").find("look-around, including look-ahead and look-behind, is not supported"),
            std::string::npos);
  EXPECT_NE(problem_of(R"((a)\1)").find("backreferences are not supported"), std::string::npos);
  EXPECT_NE(problem_of(R"(\p{Nonsense})").find("Unicode property not found"), std::string::npos);
  EXPECT_NE(problem_of(R"(\w{1000}{1000})").find("needs more than 10 MB"), std::string::npos);
  EXPECT_NE(problem_of("\xff").find("not UTF-8"), std::string::npos);
}

TEST(Regex, RefusesTextsThatAreNone) {
  EXPECT_THROW(Regex("a", "").find_all("\xff"), Error);
  EXPECT_THROW(Regex("a", "").replace_all("\xff", ""), Error);
}

TEST(Regex, EndsOnHostilePatternsAndTexts) {
  EXPECT_EQ(Regex("(a*)*b", "").find_all(std::string(100'000, 'a')).size(), 0u);
  EXPECT_THROW(Regex("", "").replace_all(std::string(1 << 16, 'a'), std::string(1 << 16, 'b')), Error);
}

}  // namespace
}  // namespace moerge
