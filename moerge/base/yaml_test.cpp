#include "moerge/base/yaml.h"

#include <gtest/gtest.h>

#include <array>

#include "moerge/base/error.h"

namespace moerge {
namespace {

std::string message_of(std::string_view text) {
  try {
    parse_yaml(text, "c.yaml");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    return error.what();
  }
  return "";
}

TEST(Yaml, KeepsPositions) {
  const YamlNode root = parse_yaml("a: 1\nb:\n  - x\n  - {y: 2}\n", "c.yaml");
  ASSERT_EQ(root.kind, YamlNode::Kind::map);
  const YamlNode& second = root.find("b")->items[1];
  EXPECT_EQ(second.line, 4);
  EXPECT_EQ(second.column, 5);
  EXPECT_EQ(second.find("y")->scalar, "2");
}

TEST(Yaml, SyntaxErrorsCarryTheirPlace) {
  EXPECT_EQ(message_of("a: [1, 2\nb: 3\n").rfind("c.yaml:", 0), 0u);
  EXPECT_EQ(message_of("a: 1\na: 2\n"), "c.yaml:2:1: \"a\" is given twice");
  EXPECT_NE(message_of(std::string("a: \0b", 5)).find("not a text file"), std::string::npos);
}

TEST(Yaml, ExpandsAliasesAndMergeKeys) {
  const YamlNode root = parse_yaml("d: &d {x: 1, y: 2}\ne: {<<: *d, y: 3}\n", "c.yaml");
  EXPECT_EQ(root.find("e")->find("x")->scalar, "1");
  EXPECT_EQ(root.find("e")->find("y")->scalar, "3");
}

// yaml-cpp finds one empty document after another at a stray comma.
TEST(Yaml, EndsOnTextsThatAreNone) {
  for (const char* text : {",# F64cle'", ",", "]", "}", "a: 1\n---\nb: 2\n", "---\n---\n", "a: &a [*a]\n",
                           "? [a]\n: b\n", "!!", "&"})
    EXPECT_NE(message_of(text), "") << text;
  EXPECT_EQ(message_of("---\na: 1\n...\n"), "");
  EXPECT_EQ(parse_yaml("", "c.yaml").line, 1);
  EXPECT_EQ(message_of("a: 1\n---\nb: 2\n").rfind("c.yaml:2:1: a second document", 0), 0u);
}

TEST(Yaml, SeveralDocuments) {
  const std::vector<YamlNode> documents =
      parse_yaml_documents("name: &a one\nmore: *a\n---\nname: two\n---\n", "f.yaml");
  ASSERT_EQ(documents.size(), 3u);
  EXPECT_EQ(documents[0].find("more")->scalar, "one");
  EXPECT_EQ(documents[1].find("name")->line, 4);
  EXPECT_EQ(documents[2].kind, YamlNode::Kind::null);
  EXPECT_TRUE(parse_yaml_documents("", "f.yaml").empty());
  EXPECT_THROW(parse_yaml("a: 1\n---\nb: 2\n", "f.yaml"), Error);
  EXPECT_THROW(parse_yaml_documents("a: &x 1\n---\nb: *x\n", "f.yaml"), Error)
      << "anchors end with a document";
  std::string many;
  for (int i = 0; i < 1001; i++) many += "--- 1\n";
  EXPECT_THROW(parse_yaml_documents(many, "f.yaml"), Error);
}

TEST(Yaml, AliasesOfEveryKind) {
  const YamlNode root = parse_yaml("a: &x 1\nb: [*x, &y {c: *x}]\nd: *y\ne: *y\n", "c.yaml");
  EXPECT_EQ(root.find("b")->items[0].scalar, "1");
  EXPECT_EQ(root.find("e")->find("c")->scalar, "1");
}

TEST(Yaml, RefusesBombs) {
  std::string bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 10; i++) {
    bomb += fmt::format("a{}: &a{} [", i, i);
    for (int j = 0; j < 10; j++) bomb += fmt::format("{}*a{}", j ? "," : "", i - 1);
    bomb += "]\n";
  }
  EXPECT_NE(message_of(bomb).find("aliases"), std::string::npos);
  // Few nodes of long texts, and copies that are kept for aliases that never come.
  std::string texts = "a: &a " + std::string(500'000, 'x') + "\nb: [";
  for (int i = 0; i < 300; i++) texts += "*a, ";
  EXPECT_NE(message_of(texts + "*a]\n").find("aliases"), std::string::npos);
  std::string kept;
  for (int i = 0; i < 90; i++) kept += fmt::format("&a{} [", i);
  for (int i = 0; i < 20'000; i++) kept += "1,";
  EXPECT_NE(message_of(kept + "1" + std::string(90, ']')).find("aliases"), std::string::npos);
  EXPECT_NE(message_of(std::string(5000, '[')), "");
  EXPECT_NE(message_of(std::string(200, '[') + std::string(200, ']')).find("nested"), std::string::npos);
}

TEST(YamlProblems, CollectsEverything) {
  const YamlNode root =
      parse_yaml("gate_mod: hidden\nexperts_per_token: two\nzebra: 1\nscale: .nan\n", "c.yaml");
  YamlProblems problems("c.yaml");
  constexpr std::array<std::string_view, 4> kKeys = {"gate_mode", "experts_per_token", "dtype", "scale"};
  problems.check_keys(root, kKeys);
  EXPECT_FALSE(problems.integer(root, "experts_per_token"));
  EXPECT_FALSE(problems.number(root, "scale"));
  EXPECT_FALSE(problems.text(root, "dtype"));
  ASSERT_EQ(problems.warnings().size(), 1u);
  EXPECT_EQ(problems.warnings()[0].rfind("c.yaml:3:1: unknown key \"zebra\"", 0), 0u);
  try {
    problems.throw_if_any();
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()),
              "c.yaml:1:1: unknown key \"gate_mod\" (did you mean \"gate_mode\"?)\n"
              "c.yaml:2:20: \"experts_per_token\" should be a whole number, found \"two\"\n"
              "c.yaml:4:8: \"scale\" should be a number, found \".nan\"");
  }
}

TEST(YamlProblems, ListsOfTexts) {
  const YamlNode root = parse_yaml("one: a\nmany: [a, 2, \"c: d\"]\nbad: [a, {b: c}]\n", "c.yaml");
  YamlProblems problems("c.yaml");
  EXPECT_EQ(problems.texts(root, "one"), (std::vector<std::string>{"a"}));
  EXPECT_EQ(problems.texts(root, "many"), (std::vector<std::string>{"a", "2", "c: d"}));
  problems.throw_if_any();
  problems.texts(root, "bad");
  EXPECT_THROW(problems.throw_if_any(), Error);
}

}  // namespace
}  // namespace moerge
