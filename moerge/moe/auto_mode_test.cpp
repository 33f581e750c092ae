#include "moerge/moe/auto_mode.h"

#include <gtest/gtest.h>

#include <vector>

namespace moerge {
namespace {

ExpertConfig expert(std::vector<std::string> prompts, bool data = false) {
  ExpertConfig out;
  out.positive_prompts = std::move(prompts);
  if (data) out.data = {{"a.txt", "a.txt", "c.yaml:1:1"}};
  return out;
}

TEST(AutoMode, WhatTheExpertsComeWithDecides) {
  const ExpertConfig words = expert({"code", "python", "how to program"});
  const ExpertConfig sentences = expert({"Write a function that", "  sorts \n a list ,", "code"});
  const ExpertConfig half = expert({"Write a function that", "code"});
  const auto choose = [](std::vector<ExpertConfig> experts) { return choose_gate_mode(experts); };
  EXPECT_EQ(choose({expert({}, true), expert({"code"}, true)}).name, "ridge");
  EXPECT_EQ(choose({expert({}, true), expert({}, true)}).reason, "every expert has data");
  EXPECT_EQ(choose({sentences, expert({}, true), words}).name, "router_input");
  EXPECT_EQ(choose({sentences, expert({}, true), words}).reason,
            "1 of 3 experts has data; with data for every expert it would be ridge");
  EXPECT_EQ(choose({sentences, sentences}).name, "router_input");
  EXPECT_EQ(choose({sentences, words}).name, "hidden");
  EXPECT_EQ(choose({sentences, half}).name, "hidden");
  EXPECT_EQ(choose({words, words}).name, "hidden");
  EXPECT_EQ(choose({words, words}).reason, "the prompts are single words");
  EXPECT_EQ(choose({expert({}), expert({})}).name, "hidden");
  EXPECT_EQ(choose({}).name, "hidden");
}

}  // namespace
}  // namespace moerge
