#include "moerge/serve/expert_shares.h"

#include <gtest/gtest.h>

#include <set>

namespace moerge {
namespace {

TokenRouting token(std::vector<int32_t> experts, std::vector<float> weights) {
  return {.position = 0, .token = 0, .experts = std::move(experts), .weights = std::move(weights)};
}

TEST(ExpertShares, SumsOverLayersAndTokens) {
  ExpertShares shares(4, 2);
  EXPECT_EQ(shares.leader(), -1);
  shares.add(token({0, 1, 1, 3}, {0.75F, 0.25F, 0.5F, 0.5F}));  // 0 and 1 have 0.75, the first of them leads
  shares.add(token({1, 0, 1, 2}, {1.0F, 0.0F, 0.875F, 0.125F}));
  EXPECT_EQ(shares.tokens(), 2);
  EXPECT_EQ(shares.layers(), 2);
  EXPECT_EQ(shares.leader(), 1);
  EXPECT_DOUBLE_EQ(shares.weight_share(0), 0.75 / 4);
  EXPECT_DOUBLE_EQ(shares.weight_share(1), 2.625 / 4);
  EXPECT_DOUBLE_EQ(shares.weight_share(2), 0.125 / 4);
  EXPECT_DOUBLE_EQ(shares.weight_share(3), 0.5 / 4);
  EXPECT_DOUBLE_EQ(shares.first_share(0), 0.25);
  EXPECT_DOUBLE_EQ(shares.first_share(1), 0.75);
  EXPECT_EQ(shares.led(0), 1);
  EXPECT_EQ(shares.led(1), 1);
  const Json json = shares.json();
  EXPECT_EQ(json["led"], (std::vector<int>{1, 1, 0, 0}));
  EXPECT_EQ(json["layers"][1]["weight"], (std::vector<double>{0, 0.6875, 0.0625, 0.25}));
  EXPECT_EQ(json["layers"][0]["first_choice"], (std::vector<double>{0.5, 0.5, 0, 0}));
  shares.clear();
  EXPECT_EQ(shares.tokens(), 0);
  EXPECT_EQ(shares.led(1), 0);
  EXPECT_DOUBLE_EQ(shares.weight_share(1), 0);
}

TEST(ExpertShares, LeavesOutWhatDoesNotFit) {
  ExpertShares shares(4, 2);
  shares.add(token({}, {}));
  shares.add(token({0, 1, 2}, {1, 0, 1}));
  shares.add(token({0, 1}, {1}));
  shares.add(token({0, 4}, {1, 0}));
  shares.add(token({-1, 2}, {1, 0}));
  EXPECT_EQ(shares.tokens(), 0);
  shares.add(token({0, 1}, {0.5F, 0.5F}));
  shares.add(token({0, 1, 0, 1}, {1, 0, 1, 0}));  // another number of layers
  EXPECT_EQ(shares.tokens(), 1);
  EXPECT_DOUBLE_EQ(shares.weight_share(0), 0.5);
}

TEST(ExpertShares, TableWithAndWithoutColour) {
  ExpertShares shares(4, 1);
  EXPECT_EQ(shares.table(false), "routing: of no token yet");
  EXPECT_EQ(shares.layer_lines(false), "");
  shares.add(token({2, 2}, {1, 1}));
  shares.add(token({2, 0}, {1, 1}));
  const std::string plain = shares.table(false);
  EXPECT_EQ(plain.find('\033'), std::string::npos);
  EXPECT_NE(plain.find("routing of 2 tokens in 2 layers, 1 of 4 experts each"), std::string::npos) << plain;
  EXPECT_NE(plain.find("\n2              75.0 %        75.0 %  1"), std::string::npos) << plain;
  EXPECT_EQ(shares.layer_lines(false),
            "layer   0: 2 100 %, 0 0 %, 1 0 %, 3 0 %\nlayer   1: 0 50 %, 2 50 %, 1 0 %, 3 0 %");
  const std::string colourful = shares.table(true);
  EXPECT_NE(colourful.find("\033[38;5;37m2 teal     \033[39m    75.0 %"), std::string::npos) << colourful;
}

TEST(ExpertShares, ManyExpertsAreSummedUp) {
  ExpertShares shares(64, 2);
  for (int32_t i = 0; i < 20; i++) shares.add(token({63 - i, 0}, {0.5F, 0.5F}));
  const std::string table = shares.table(false);
  EXPECT_EQ(std::ranges::count(table, '\n'), 18) << table;  // head, 16 experts, the others
  EXPECT_LT(table.find("\n0 "), table.find("\n44 ")) << table;
  EXPECT_NE(table.find("\n48 others      12.5 %"), std::string::npos) << table;
}

TEST(ExpertShares, ColoursDifferAndBeginAgain) {
  std::set<int> codes;
  std::set<std::string_view> names;
  for (int64_t expert = 0; expert < kExpertColours; expert++) {
    codes.insert(expert_colour(expert).code);
    names.insert(expert_colour(expert).name);
  }
  EXPECT_EQ(std::ssize(codes), kExpertColours);
  EXPECT_EQ(std::ssize(names), kExpertColours);
  EXPECT_EQ(expert_colour(kExpertColours + 3).code, expert_colour(3).code);
  EXPECT_EQ(in_colour(0, "x"), "\033[38;5;172mx\033[39m");
}

TEST(ExpertShares, LeaderOfOneToken) {
  EXPECT_EQ(leading_expert(token({0, 1, 2, 1}, {0.6F, 0.4F, 0.5F, 0.5F}), 4), 1);
  EXPECT_EQ(leading_expert(token({3}, {1}), 4), 3);
}

TEST(ExpertShares, ExpertsAreCalledByTheirNames) {
  ExpertShares shares(2, 1, {"code\033[31m", std::string(27, 'x') + "\u00e9\u00e9"});
  shares.add({0, 7, {1}, {1.0f}});
  const std::string table = shares.table(false);
  EXPECT_NE(table.find("\n0 code\\x1b[31m "), std::string::npos) << table;
  EXPECT_NE(table.find("\n1 " + std::string(27, 'x') + " "), std::string::npos) << table;
}

}  // namespace
}  // namespace moerge
