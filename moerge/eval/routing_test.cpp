#include "moerge/eval/routing.h"

#include <gtest/gtest.h>

namespace moerge {
namespace {

TaskRouting two_layers() { return {.items = 4, .layers = {{0, {3, 1, 0}}, {2, {0, 10, 0}}, {5, {0, 0, 0}}}}; }

TEST(Routing, SharesAreTheMeanOverLayersThatChose) {
  EXPECT_EQ(expert_shares(two_layers()), (std::vector<double>{37.5, 62.5, 0}));
  EXPECT_EQ(never_chosen(two_layers()), 3);  // one of layer 0, two of layer 2
  EXPECT_TRUE(expert_shares({}).empty());
}

TEST(Routing, SumsAndDifferencesByLayer) {
  const std::vector<ExpertLoad> before = {{0, {1, 1, 0}}}, after = two_layers().layers;
  const std::vector<ExpertLoad> between = difference(after, before);
  ASSERT_EQ(between.size(), 3u);
  EXPECT_EQ(between[0].tokens, (std::vector<int64_t>{2, 0, 0}));
  EXPECT_EQ(between[1].tokens, after[1].tokens);
  const std::vector<ExpertLoad> again = sum(before, between);
  for (size_t i = 0; i < after.size(); i++) {
    EXPECT_EQ(again[i].layer, after[i].layer);
    EXPECT_EQ(again[i].tokens, after[i].tokens);
  }
}

TEST(Routing, ListsTheMostChosen) {
  const std::string names[] = {"code", "prose", ""};
  EXPECT_EQ(most_chosen(two_layers(), names), "1 prose (62.5), 0 code (37.5), 2 (0.0)");
  EXPECT_EQ(most_chosen(two_layers(), {}), "1 (62.5), 0 (37.5), 2 (0.0)");
}

TEST(Routing, ThereAndBackAsJson) {
  const std::optional<TaskRouting> back = parse_routing(routing_json(two_layers()));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->items, 4);
  ASSERT_EQ(back->layers.size(), 3u);
  EXPECT_EQ(back->layers[1].layer, 2);
  EXPECT_EQ(back->layers[1].tokens, (std::vector<int64_t>{0, 10, 0}));
  for (const char* text : {"{}", "[]", "null", R"({"items": 1, "layers": []})",
                           R"({"items": -1, "layers": [{"layer": 0, "tokens": [1]}]})",
                           R"({"items": 1, "layers": [{"layer": 0, "tokens": ["1"]}]})",
                           R"({"items": 1, "layers": [{"layer": 0, "tokens": [1e30]}]})",
                           R"({"items": 1, "layers": [{"layer": 0, "tokens": []}]})",
                           R"({"items": 1, "layers": [{"tokens": [1]}]})",
                           R"({"items": 1.5, "layers": [{"layer": 0, "tokens": [1]}]})"})
    EXPECT_FALSE(parse_routing(Json::parse(text))) << text;
}

}  // namespace
}  // namespace moerge
