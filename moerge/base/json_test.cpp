#include "moerge/base/json.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"

namespace moerge {
namespace {

std::string message_of(std::string_view text) {
  try {
    parse_json(text, "config.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Json, KeepsTheOrderOfKeys) { EXPECT_EQ(parse_json(R"({"b":1,"a":2})", "x").dump(), R"({"b":1,"a":2})"); }

TEST(Json, RefusesAMillionLevels) {
  EXPECT_NE(message_of(std::string(1000000, '[')).find("nested deeper than 64"), std::string::npos);
  std::string objects;
  for (int i = 0; i < 100000; i++) objects += R"({"a":)";
  EXPECT_NE(message_of(objects).find("nested deeper"), std::string::npos);
  EXPECT_EQ(message_of(std::string(60, '[') + std::string(60, ']')), "");
}

TEST(Json, OfManyKeysTheLastOfEachCountsInTheFirstsPlace) {
  std::string text, expected;
  for (int i = 0; i < 40; i++) {
    text += fmt::format("\"{}\":{},", i, i);
    expected += fmt::format("\"{}\":{},", i, i == 3 || i == 30 ? "[7]" : std::to_string(i));
  }
  text += R"("3":{"a":1},"30":1,"30":[7],"3":[7])";
  expected.pop_back();
  EXPECT_EQ(parse_json("{" + text + "}", "x").dump(), "{" + expected + "}");
}

// Quadratic time is half an hour here.
TEST(Json, TakesNoLongerForMany) {
  std::string keys = "{", objects = "[", both = "{";
  for (int i = 0; i < 300'000; i++) {
    keys += fmt::format("\"{}\":0,", i);
    objects += "{},";
    both += fmt::format("\"{}\":{{}},", i);
  }
  EXPECT_EQ(parse_json(keys + "\"\":0}", "x").size(), 300'001u);
  EXPECT_EQ(parse_json(objects + "{}]", "x").size(), 300'001u);
  EXPECT_EQ(parse_json(both + "\"\":{}}", "x").size(), 300'001u);
}

TEST(Json, LeavesMembersOut) {
  const char* text = R"({"a":{"big":{"x":[1,{"big":2}],"y":{}},"c":3},"big":4,"d":[{"big":5}]})";
  EXPECT_EQ(parse_json_without("big", text, "x").dump(), R"({"a":{"c":3},"d":[{}]})");
  EXPECT_EQ(parse_json(text, "x").dump(), text);
  EXPECT_THROW(parse_json_without("big", R"({"big":{"x":}})", "x"), Error);
  EXPECT_THROW(parse_json_without("big", R"({"big":)" + std::string(100, '['), "x"), Error);
}

TEST(Json, KeepsNamedMembersAlone) {
  constexpr std::string_view kKeep[] = {"a", "c"};
  EXPECT_EQ(parse_json_only(kKeep, R"({"a":[{"b":1,"c":2,"a":{"d":3}}],"b":{"a":4}})", "x").dump(),
            R"({"a":[{"c":2,"a":{}}]})");
  EXPECT_EQ(parse_json_only(kKeep, "[1]", "x").dump(), "[1]");
  EXPECT_THROW(parse_json_only(kKeep, R"({"b":{"x":}})", "x"), Error);
  EXPECT_THROW(parse_json_only(kKeep, R"({"b":)" + std::string(100, '['), "x"), Error);
}

TEST(Json, SaysWhereItIsWrong) {
  EXPECT_EQ(message_of("{\n  \"a\": }").rfind("config.json: not valid JSON: parse error at line 2", 0), 0u);
  EXPECT_NE(message_of("\"\xff\""), "");
  EXPECT_NE(message_of(""), "");
}

TEST(Json, TypedMembers) {
  const Json object = parse_json(R"({"n":3,"x":1.5,"s":"t","z":null,"big":18446744073709551615})", "c");
  EXPECT_EQ(json_int(object, "n", "c"), 3);
  EXPECT_EQ(json_number(object, "n", "c"), 3.0);
  EXPECT_EQ(json_string(object, "s", "c"), "t");
  EXPECT_FALSE(json_int(object, "z", "c"));
  EXPECT_FALSE(json_bool(object, "missing", "c"));
  EXPECT_THROW(json_int(object, "x", "c"), Error);
  EXPECT_THROW(json_int(object, "big", "c"), Error);
  EXPECT_THROW(json_string(object, "n", "c"), Error);
}

TEST(Json, SetsAMemberAndLeavesTheRest) {
  const auto set = [](std::string_view text) { return set_json_member(text, "k", "a\"b\n", "f.json"); };
  EXPECT_EQ(set("{}"), "{\n  \"k\": \"a\\\"b\\n\"\n}");
  EXPECT_EQ(set(" {\n } \n"), " {\n \n  \"k\": \"a\\\"b\\n\"\n} \n");
  EXPECT_EQ(set("{\"n\": 1000000000000000019884624838656}\n"),
            "{\"n\": 1000000000000000019884624838656,\n  \"k\": \"a\\\"b\\n\"}\n");
  EXPECT_EQ(set(R"({"a":{"k":[1,"}",{"x":"\\"}]},"k" : {"k": null} ,"b":"\u006b"})"),
            R"({"a":{"k":[1,"}",{"x":"\\"}]},"k" : "a\"b\n" ,"b":"\u006b"})");
  EXPECT_EQ(set(R"({"\u006b":true})"), R"({"\u006b":"a\"b\n"})");
  EXPECT_EQ(set(R"({"k":1,"k":-2.5e3})"), R"({"k":1,"k":"a\"b\n"})");
  EXPECT_EQ(set("\xef\xbb\xbf{\"k\":[]}"), "\xef\xbb\xbf{\"k\":\"a\\\"b\\n\"}");
  for (const char* text : {"[]", "1", "", "{", "{\"k\"}", "{\"a\": 1,}"})
    EXPECT_THROW(set(text), Error) << text;
  // Whatever the document, what comes out is valid and says so.
  for (const char* text :
       {R"({"a": "\\", "b": [], "k": ""})", R"({"k":{}})", R"({"z":[[["k"]]],"y":{"k":1}})"})
    EXPECT_EQ(parse_json(set(text), "f.json")["k"], "a\"b\n") << text;
}

}  // namespace
}  // namespace moerge
