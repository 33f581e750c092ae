#include "moerge/moe/routing_report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "moerge/base/error.h"

namespace moerge {
namespace {

using ::testing::Test;

ModelConfig mixture(int64_t layers, int64_t experts, int64_t per_token) {
  ModelConfig config;
  config.layers = layers;
  config.experts = experts;
  config.experts_per_token = per_token;
  return config;
}

/// A report of two layers and four experts (a, b, c, d), two for each token, made from prompts.
class Report : public Test {
 public:
  Report() { report_.names = {"a", "b", "c", "d"}, report_.has_prompts = true, report_.window = 512; }

  /// A text whose tokens all have these logits in every layer.
  void add(int64_t meant, int64_t tokens, const std::vector<float>& row) { add(meant, tokens, row, row); }
  void add(int64_t meant, int64_t tokens, const std::vector<float>& first, const std::vector<float>& second) {
    RoutedText text = {.name = "text", .meant = meant, .tokens = tokens, .first = std::vector<int64_t>(4)};
    const std::vector<int64_t> labels(static_cast<size_t>(tokens), meant);
    for (int64_t layer = 0; layer < 2; layer++) {
      const std::vector<float>& row = layer == 0 ? first : second;
      std::vector<float> logits;
      for (int64_t i = 0; i < tokens; i++) logits.insert(logits.end(), row.begin(), row.end());
      report_.stats.add(layer, logits, labels, 2);
      text.first[static_cast<size_t>(std::ranges::max_element(row) - row.begin())] += tokens;
    }
    report_.texts.push_back(std::move(text));
  }

  std::vector<std::string> kinds() const {
    std::vector<std::string> out;
    for (const Finding& finding : diagnose(report_)) out.push_back(finding.kind);
    return out;
  }
  Finding find(std::string_view kind) const {
    for (const Finding& finding : diagnose(report_))
      if (finding.kind == kind) return finding;
    return {};
  }
  /// Every expert gets its own texts, and the next one the second place.
  void add_sound(int64_t tokens = 100) {
    for (int64_t e = 0; e < 4; e++) {
      std::vector<float> row(4, 0.0f);
      row[static_cast<size_t>(e)] = 4;
      row[static_cast<size_t>((e + 1) % 4)] = 2;
      add(e, tokens, row);
    }
  }

  RoutingReport report_{"a mixture", mixture(2, 4, 2)};
};

using Strings = std::vector<std::string>;
using Numbers = std::vector<int64_t>;

TEST_F(Report, SharesByHand) {
  add(0, 30, {3, 2, 1, 0}, {0, 1, 2, 3});
  add(1, 10, {2, 3, 1, 0}, {0, 1, 2, 3});
  EXPECT_DOUBLE_EQ(report_.share(0, 0), 0.5);
  EXPECT_DOUBLE_EQ(report_.share(0, 3), 0);
  EXPECT_DOUBLE_EQ(report_.first_share(0, 0), 0.75);
  EXPECT_DOUBLE_EQ(report_.first_share(int64_t{0}), 0.375);
  EXPECT_DOUBLE_EQ(report_.share(3), 0.25);
  EXPECT_DOUBLE_EQ(report_.confusion(0, 0), 0.5);
  EXPECT_DOUBLE_EQ(report_.confusion(1, 3), 0.5);
  EXPECT_DOUBLE_EQ(report_.confusion(2, 3), 0);
  EXPECT_DOUBLE_EQ(report_.right_share(int64_t{0}), 1);
  EXPECT_DOUBLE_EQ(report_.right_share(1), 0);
  EXPECT_EQ(report_.tokens(), 40);
  EXPECT_EQ(report_.tokens_meant(1), 10);
  const double sum = std::exp(3.0) + std::exp(2.0) + std::exp(1.0) + 1;
  EXPECT_NEAR(report_.probability(1, 3), std::exp(3.0) / sum, 1e-6);
}

TEST_F(Report, NothingToComplainAbout) {
  add_sound();
  EXPECT_EQ(kinds(), Strings{"fine"});
  EXPECT_EQ(
      find("fine").text,
      "Nothing to complain about: routers decide, their rows differ, and no expert is idle or takes over; "
      "texts go to the expert they are meant for.");
}

TEST_F(Report, FewTokens) {
  add_sound(10);
  EXPECT_EQ(kinds(), (Strings{"few_tokens", "fine"}));
  EXPECT_NE(find("few_tokens").text.find("Only 40 tokens were counted"), std::string::npos);
}

TEST_F(Report, DeadAndGreedy) {
  add(-1, 900, {5, 3, 0, 0}, {5, 3, 0, 0});
  add(-1, 100, {0, 0, 5, 3}, {5, 0, 3, 0});
  // Expert 3 has 100 of 2000 places in layer 0 (5 %, no tenth of 25 % but a fifth), none in layer 1.
  const Finding dead = find("dead_expert");
  EXPECT_EQ(dead.experts, Numbers{3});
  EXPECT_EQ(dead.layers, Numbers{1});
  EXPECT_TRUE(
      dead.text.starts_with("Expert 3 (d) is dead in layer 1: it gets less than a tenth of an even share."));
  const Finding greedy = find("greedy_expert");
  EXPECT_EQ(greedy.experts, Numbers{0});
  EXPECT_EQ(greedy.layers, (Numbers{0, 1}));
  EXPECT_TRUE(greedy.text.starts_with(
      "Expert 0 (a) is greedy in every layer: it is the first choice of 95 % of all tokens there"));
}

TEST_F(Report, AnExpertWhoseTextsAreMostOfAllIsNotGreedy) {
  add_sound();
  add(0, 900, {5, 0, 0, 3});
  EXPECT_EQ(find("greedy_expert").kind, "");
}

TEST_F(Report, UndecidedAndWrong) {
  add(0, 150, {0.1f, 0.2f, 0, 0});
  add(1, 150, {0, 0.2f, 0.1f, 0});
  const Finding undecided = find("undecided");
  EXPECT_EQ(undecided.layers, (Numbers{0, 1}));
  EXPECT_NE(undecided.text.find("(100 % of the largest possible entropy)"), std::string::npos)
      << undecided.text;
  const Finding wrong = find("wrong_expert");
  EXPECT_EQ(wrong.experts, (Numbers{0, 1}));
  EXPECT_TRUE(
      wrong.text.starts_with("Texts meant for expert 0 (a) go to expert 1 (b): 100 % of their tokens"));
  EXPECT_EQ(find("no_text").experts, (Numbers{2, 3}));
  EXPECT_EQ(find("weak_routing").kind, "");  // one of two: twice what chance does
}

TEST_F(Report, NoBetterThanChance) {
  for (int64_t meant = 0; meant < 4; meant++) add(meant, 100, {5, 3, 3, 3});
  EXPECT_TRUE(
      find("weak_routing").text.find("25 % choose it first, and chance alone would do so with 25 %") !=
      std::string::npos);
}

TEST_F(Report, CollisionsAreSummedUp) {
  add_sound();
  for (int64_t i = 0; i < 7; i++) report_.collisions.push_back({0, 1 + i % 3, {0}, 0.99});
  const Strings all = kinds();
  EXPECT_EQ(all, Strings(6, "collision"));
  EXPECT_EQ(diagnose(report_).back().text, "The same is said of 2 more: experts 0-1, 3.");
}

TEST_F(Report, WithoutPromptsTheAdviceIsAnother) {
  report_.has_prompts = false;
  add(0, 1000, {0, 5, 3, 0});
  for (const Finding& finding : diagnose(report_))
    EXPECT_EQ(finding.text.find("prompts"), std::string::npos) << finding.text;
}

TEST(RoutingReport, OneExpertAndAllExperts) {
  RoutingReport one("one", mixture(1, 1, 1));
  EXPECT_EQ(diagnose(one).front().kind, "one_expert");
  EXPECT_EQ(one.entropy(0), 0);
  EXPECT_NE(routing_text(one, {}).find("1 expert, 1 for each token, 1 layer; 0 tokens of 0 texts"),
            std::string::npos);
  EXPECT_NE(routing_page(one).find("</html>"), std::string::npos);
  RoutingReport all("all", mixture(1, 2, 2));
  EXPECT_EQ(diagnose(all)[1].kind, "all_experts");
}

TEST(RoutingReport, RefusesWhatNoMemoryHolds) {
  EXPECT_THROW(RoutingReport("many", mixture(64, 4096, 2)), Error);
}

TEST_F(Report, ChoicesAreThoseOfTheForwardPass) {
  const float ln2 = std::log(2.0f);
  const RoutedToken token = {.id = 1, .piece = "x", .logits = {0, ln2, 0, 2 * ln2, /**/ 9, 9, 9, 0}};
  const auto chosen = choices(report_, token);
  ASSERT_EQ(chosen.size(), 2u);
  ASSERT_EQ(chosen[0].size(), 2u);
  EXPECT_EQ(chosen[0][0].expert, 3);
  EXPECT_NEAR(chosen[0][0].weight, 2.0 / 3, 1e-6);
  EXPECT_EQ(chosen[1][0].expert, 0);
  EXPECT_EQ(chosen[1][1].expert, 1);
}

TEST_F(Report, JsonHasItAll) {
  add_sound(50);
  report_.texts[0].kept = {{.id = 7, .piece = "\xff", .logits = std::vector<float>(8, 0.5f)}};
  report_.texts[0].log_probability = -50 * std::log(3.0);
  report_.texts[0].predicted = 50;
  const Json json = parse_json(json_text(routing_json(report_, true)), "test");
  EXPECT_NEAR(json["texts"][0]["perplexity"].get<double>(), 3, 1e-9);
  EXPECT_TRUE(json["texts"][1]["perplexity"].is_null());
  EXPECT_EQ(json["texts"][0]["per_token"][0]["layers"][1]["experts"], (Json{0, 1}));
  EXPECT_EQ(json["texts"][0]["per_token"][0]["layers"][1]["weights"], (Json{0.5, 0.5}));
  EXPECT_EQ(json["layers"][0]["confusion"][2], (Json{0, 0, 50, 0}));
  EXPECT_EQ(json["right_share"], 1.0);
  EXPECT_EQ(json["experts"][3]["name"], "d");
  EXPECT_FALSE(routing_json(report_, false)["texts"][0].contains("per_token"));
}

// -------- text

TEST_F(Report, TextFitsATerminal) {
  add_sound();
  report_.names = {std::string(300, 'x'), "\xc3\xa9\xe4\xb8\xad", "\033[2J", ""};
  for (const bool bars : {false, true}) {
    const std::string text = routing_text(report_, {.bars = bars});
    EXPECT_EQ(text.find('\033'), std::string::npos);
    for (size_t at = 0; at < text.size();) {
      const size_t end = text.find('\n', at);
      EXPECT_LE(std::ranges::count_if(text.substr(at, end - at), [](char c) { return (c & 0xc0) != 0x80; }),
                100)
          << text.substr(at, end - at);
      at = end + 1;
    }
  }
  EXPECT_NE(routing_text(report_, {.colours = true}).find("\033[1m"), std::string::npos);
}

TEST(RoutingReport, ManyLayersAreGrouped) {
  RoutingReport report("deep", mixture(100, 40, 2));
  for (int64_t layer = 0; layer < 100; layer++) {
    std::vector<float> logits(40, 0.0f);
    logits[static_cast<size_t>(layer % 40)] = 9;
    report.stats.add(layer, logits, Numbers{-1}, 2);
  }
  const std::string text = routing_text(report, {});
  EXPECT_NE(text.find("\n0-3    "), std::string::npos) << text;
  EXPECT_NE(text.find("\n96-99  "), std::string::npos);
}

// -------- page

TEST_F(Report, PageIsSelfContainedAndEscaped) {
  report_.model = "<script>alert('1')</script>";
  report_.names = {"\"><img src=x>", "b", "c", "d"};
  add_sound(60);
  report_.texts[0].name = "a&b";
  report_.texts[0].kept = {{.id = 1, .piece = "</div>\n", .logits = std::vector<float>(8, 0.0f)},
                           {.id = 2, .piece = "", .logits = std::vector<float>(8, 0.0f)},
                           {.id = 3, .piece = "\xff\x01", .logits = std::vector<float>(8, 0.0f)}};
  const std::string page = routing_page(report_);
  EXPECT_TRUE(is_routing_page(page));
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_EQ(page.find("<img"), std::string::npos);
  EXPECT_EQ(page.find("http"), std::string::npos);
  EXPECT_NE(page.find("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;"), std::string::npos);
  EXPECT_NE(page.find("&lt;/div&gt;<i>↵</i>"), std::string::npos);
  EXPECT_NE(page.find("\xef\xbf\xbd\\x01"), std::string::npos);
  EXPECT_NE(page.find("a&amp;b"), std::string::npos);
  EXPECT_NE(page.find("<title>layer 1, expert 1 (b): 25 % of the places, first choice of 25 %"),
            std::string::npos);
  EXPECT_NE(page.find("prefers-color-scheme: dark"), std::string::npos);
}

TEST(RoutingReport, PageOfManyExpertsIsWideNotHuge) {
  RoutingReport report("wide", mixture(60, 64, 6));
  for (int64_t layer = 0; layer < 60; layer++)
    report.stats.add(layer, std::vector<float>(64, 0.0f), Numbers{-1}, 6);
  RoutedText text = {.name = "text", .tokens = 2000, .first = Numbers(64)};
  for (int32_t i = 0; i < 3000; i++) {
    RoutedToken token = {.id = i, .piece = "word ", .logits = std::vector<float>(60 * 64, 0.0f)};
    token.logits[static_cast<size_t>(i % 64)] = 1;
    text.kept.push_back(std::move(token));
  }
  report.texts.push_back(std::move(text));
  const std::string page = routing_page(report);
  EXPECT_LT(page.size(), 4u << 20);
  EXPECT_NE(page.find("beginning, 2000 tokens"), std::string::npos);
  EXPECT_FALSE(is_routing_page("<!doctype html>\n<html>"));
}

}  // namespace
}  // namespace moerge
