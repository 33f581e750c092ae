#include "moerge/moe/saved_gates.h"

#include <gtest/gtest.h>

namespace moerge {
namespace {

GateInput input() {
  GateInput out;
  out.layers = 2;
  out.hidden = 3;
  out.experts.resize(2);
  return out;
}

Gates gates() {
  Gates out{GateTable(2, 2, 3)};
  for (size_t i = 0; i < out.table.values.size(); i++)
    out.table.values[i] = 0.1f * static_cast<float>(i) - 0.35f;
  out.fit_seconds = 1.5;
  return out;
}

TEST(SavedGates, ComeBackAsTheyWere) {
  Gates before = gates();
  RoutingStats stats(2, 2);
  const std::vector<float> logits = {1, 0, 0.5f, 2};
  const std::vector<int64_t> meant = {0, 1};
  for (int64_t layer = 0; layer < 2; layer++) stats.add(layer, logits, meant, 1);
  before.forecast = Forecast{stats, true};
  const auto after = unpack_gates(pack_gates(before), input());
  ASSERT_TRUE(after && after->forecast);
  EXPECT_EQ(after->table.values, before.table.values);
  EXPECT_EQ(after->fit_seconds, 1.5);
  EXPECT_TRUE(after->forecast->held_out);
  ASSERT_EQ(after->forecast->stats.layers.size(), 2u);
  EXPECT_EQ(after->forecast->stats.layers[1].confusion, stats.layers[1].confusion);
  EXPECT_EQ(after->forecast->stats.layers[1].probability, stats.layers[1].probability);
  EXPECT_EQ(after->forecast->stats.right_share(), stats.right_share());
  EXPECT_FALSE(unpack_gates(pack_gates(gates()), input())->forecast);
}

TEST(SavedGates, OthersAreNone) {
  const std::string good = pack_gates(gates());
  GateInput other = input();
  other.experts.resize(3);
  EXPECT_FALSE(unpack_gates(good, other));
  for (size_t length = 0; length < good.size(); length++)
    EXPECT_FALSE(unpack_gates(good.substr(0, length), input()));
  EXPECT_FALSE(unpack_gates(good + "x", input()));
  for (const char* head :
       {"{}", "[]", "3", "{\"layers\":2}", "{\"layers\":2,\"experts\":2,\"hidden\":3,\"fit_seconds\":\"a\"}",
        "{\"layers\":2,\"experts\":2,\"hidden\":3,\"fit_seconds\":0,\"forecast\":{\"experts\":-1}}",
        "{\"layers\":2,\"experts\":2,\"hidden\":3,\"fit_seconds\":0,\"forecast\":{\"experts\":2,"
        "\"held_out\":true,\"layers\":[{\"tokens\":1,\"entropy\":0,\"chosen\":[1]}]}}"})
    EXPECT_FALSE(unpack_gates(head + good.substr(good.find('\n')), input())) << head;
}

}  // namespace
}  // namespace moerge
