#include "moerge/moe/forecast.h"

#include <gtest/gtest.h>

#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

// A plan of `experts` models called x0, x1, ... whose routers were made as `forecast` says.
class Planned {
 public:
  explicit Planned(int64_t experts, int64_t experts_per_token = 2) {
    dir_.write("config.json", testing::kTinyConfig);
    dir_.write("model.safetensors", testing::safetensors_bytes(testing::tiny_tensors(1)));
    for (int64_t e = 0; e < experts; e++) {
      models_.push_back(std::make_unique<Model>("org/x" + std::to_string(e), ModelLocation{dir_.path()}));
      moe_.models.experts.push_back(models_.back().get());
    }
    moe_.config.experts_per_token = experts_per_token;
  }

  std::string text(std::optional<Forecast> forecast) {
    std::promise<Gates> gates;
    gates.set_value({GateTable(1, std::ssize(models_), 8), std::move(forecast)});
    *moe_.gates = gates.get_future().share();
    return forecast_text(moe_);
  }

 private:
  testing::TempDir dir_;
  std::vector<std::unique_ptr<Model>> models_;
  MoePlan moe_;
};

// Rows of counts[meant][first choice] tokens, each sent to one expert.
Forecast counted(const std::vector<std::vector<int>>& counts, bool held_out = false) {
  const auto experts = std::ssize(counts);
  Forecast out = {RoutingStats(1, experts), held_out};
  for (int64_t meant = 0; meant < experts; meant++)
    for (int64_t first = 0; first < experts; first++) {
      std::vector<float> logits(static_cast<size_t>(experts));
      logits[static_cast<size_t>(first)] = 1;
      for (int i = 0; i < counts[static_cast<size_t>(meant)][static_cast<size_t>(first)]; i++)
        out.stats.add(0, logits, std::vector<int64_t>{meant}, 1);
    }
  return out;
}

TEST(ForecastText, ThreeLines) {
  EXPECT_EQ(Planned(2, 1).text(counted({{150, 50}, {0, 100}})),
            "routing forecast, over 300 tokens of the experts' own texts: places go to x0 50 %, x1 50 %\n"
            "  the first choice is the expert that was meant for 88 % of the tokens (50 % would be chance): "
            "x0 75 %, "
            "x1 100 %\n"
            "  no expert is idle, and none takes more than its share");
}

TEST(ForecastText, HeldOut) {
  const std::string text = Planned(2, 1).text(counted({{150, 50}, {0, 100}}, true));
  EXPECT_TRUE(text.starts_with(
      "routing forecast, over 300 tokens of data that the routers were not fitted to: places go to "))
      << text;
}

TEST(ForecastText, NothingWithoutCounts) {
  EXPECT_EQ(Planned(2).text({}), "");
  EXPECT_EQ(Planned(2).text(Forecast{RoutingStats(0, 2), false}), "");
}

struct Verdict {
  std::vector<std::vector<int>> counts;
  std::string ends;
};

TEST(ForecastText, Verdicts) {
  for (const auto& [counts, ends] : std::vector<Verdict>{
           {{{99, 0}, {0, 100}}, "\n  so few tokens say little: moerge route shows where other texts go"},
           {{{100, 0}, {0, 100}}, "\n  no expert is idle, and none takes more than its share"},
           {{{74, 26}, {26, 74}},
            "\n  hardly better than chance: give every expert some sentences of its "
            "kind, or \"data\", and gate_mode router_input or ridge"},
           {{{76, 24}, {26, 76}}, "\n  no expert is idle, and none takes more than its share"},
           {{{900, 10, 0}, {10, 900, 0}, {0, 1, 9}},
            "\n  x2 will hardly be used: its texts are too much like the others'"},
           {{{900, 0, 0}, {0, 100, 0}, {0, 0, 100}}, "\n  x0 takes more than twice its even share"},
           {{{190, 10}, {0, 10}}, "\n  no expert is idle, and none takes more than its share"}}) {
    const std::string text = Planned(std::ssize(counts), 1).text(counted(counts));
    EXPECT_TRUE(text.ends_with(ends)) << text;
  }
}

// Where every other place goes to somebody else, twice the share means nothing.
TEST(ForecastText, HalfOfTheExpertsAtOnceIsNoGreed) {
  const std::string text = Planned(3, 2).text(counted({{900, 0, 0}, {0, 100, 0}, {0, 0, 100}}));
  EXPECT_TRUE(text.ends_with("none takes more than its share")) << text;
}

}  // namespace
}  // namespace moerge
