#include "moerge/serve/request_check.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/serve/grammar_check.h"

namespace moerge {
namespace {

std::string refusal(const std::string& body, RequestKind kind = RequestKind::text) {
  try {
    check_request(parse_request(body), kind, {.parallel = 4, .longest_text = 100, .context = 25});
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.message();
  }
}

bool refuses(const std::string& body, std::string_view why, RequestKind kind = RequestKind::text) {
  const std::string said = refusal(body, kind);
  EXPECT_NE(said.find(why), std::string::npos) << body << " -> " << said;
  return !said.empty();
}

TEST(RequestCheck, UsualRequestsPass) {
  EXPECT_EQ(
      refusal(R"({"prompt": "x", "max_tokens": 5, "top_k": 40.0, "logprobs": 3, "n": 4, "stop": ["a"]})"),
      "");
  EXPECT_EQ(refusal(R"({"prompt": [1, 2], "temperature": null, "user": "me", "id_slot": -1, "lora": []})"),
            "");
  EXPECT_EQ(refusal(R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]})",
                    RequestKind::chat),
            "");
}

TEST(RequestCheck, WhatCannotBeParsedIsRefusedWithItsPlace) {
  EXPECT_TRUE(refuses("{\"a\": }", "line 1, column 7"));
  EXPECT_TRUE(refuses(std::string(1000000, '['), "deeper than 64"));
  EXPECT_TRUE(refuses("[]", "should be a JSON object"));
  EXPECT_TRUE(refuses("{\"a\": 1e400}", "JSON"));
  std::string wide = "{";
  for (int i = 0; i < 5000; i++) wide += (i ? ",\"" : "\"") + std::to_string(i) + "\":1";
  EXPECT_TRUE(refuses(wide + "}", "4096 members"));
}

TEST(RequestCheck, ValuesBeyondWhatTheEngineBearsAreRefused) {
  EXPECT_TRUE(refuses(R"({"prompt": "x", "n_probs": 1000000000})",
                      "\"n_probs\" should be a whole number from 0 to 100"));
  EXPECT_TRUE(refuses(R"({"prompt": "x", "repeat_last_n": 2147483647})", "repeat_last_n"));
  EXPECT_TRUE(refuses(R"({"prompt": "x", "temperature": "hot"})", "found string"));
  EXPECT_TRUE(refuses(R"({"prompt": "x", "n": 5})", "--parallel"));
  EXPECT_TRUE(refuses(R"({"prompt": "x", "id_slot": 4})", "id_slot"));
  EXPECT_TRUE(refuses(R"({"prompt": "x", "stop": [""]})", "empty text"));
  EXPECT_TRUE(refuses(R"({"prompt": "x", "grammar_triggers": []})", "cannot be set"));
  EXPECT_TRUE(refuses(R"({"prompt": "x", "logit_bias": {"5": 1e9}})", "logit_bias"));
  EXPECT_TRUE(refuses("{\"prompt\": \"" + std::string(101, 'x') + "\"}", "context of 25"));
  EXPECT_TRUE(refuses(R"({"messages": "x"})", "should be a list", RequestKind::chat));
  EXPECT_TRUE(refuses(R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})", "texts only",
                      RequestKind::chat));
}

TEST(GrammarCheck, CountsTheWaysThatAreOpenAtOnce) {
  EXPECT_EQ(open_ways("root ::= \"abc\"", 100), 1u);
  EXPECT_LE(open_ways("root ::= [a-z]* | \"x\"", 100), 2u);
  EXPECT_LE(open_ways("root ::= ws \"{\" ws \"}\" ws\nws ::= [ \\t]{0,20}", 100), 3u);
  std::string many = "root ::=", nested = "root ::= r0\n";
  for (int i = 0; i < 60; i++) many += " (\"a\" | \"\")";
  for (int i = 0; i < 60; i++)
    nested += "r" + std::to_string(i) + " ::= r" + std::to_string(i + 1) + " (\"a\" | \"\")\n";
  EXPECT_GT(open_ways(many, 33), 32u);
  EXPECT_GT(open_ways(nested + "r60 ::= \"x\"\n", 33), 32u);
  EXPECT_EQ(open_ways("garbage ::=", 100), 0u);
}

}  // namespace
}  // namespace moerge
