#include "moerge/hub/card.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "moerge/base/yaml.h"
#include "moerge/hub/card_source.h"

namespace moerge {
namespace {

// What YAML, Markdown or HTML make something of, at the beginning of a text and inside it.
const std::string kHostile[] = {
    "no",
    "on",
    "1.0",
    "1e3",
    "~",
    "null",
    "@at",
    "`tick",
    "---",
    "a\n---\nb: c",
    "# heading",
    "a\n# heading",
    "- item",
    "1. item",
    "> quote",
    "===",
    "a: b",
    "a #b",
    "{a}",
    "[a](b)",
    "]",
    "!tag",
    "&anchor",
    "*alias",
    "%directive",
    "|",
    "a | b",
    "a \\| b",
    "a `|` b",
    "'single'",
    "\"double\"",
    "\\",
    "<b>bold</b>",
    "<!-- moerge card: x -->",
    "&amp;",
    "a\tb",
    "\r\n",
    "x\x01y\x7fz",
    "nul\0nul",
    "\xc2\x85next",
    "\xe2\x80\xa8line",
    "\xef\xbb\xbfmark",
    "\xef\xbf\xbf",
    "\xf0\x9f\x8d\xb3",
    "``` fence",
    "```\n# out\n```",
    "  ",
    "$$x$$",
};

YamlNode front_of(const std::string& readme) {
  const std::optional<YamlNode> front = read_front_matter(readme);
  EXPECT_TRUE(front) << readme;
  return front.value_or(YamlNode());
}

// The lines behind the front matter that are not in a fenced block.
std::vector<std::string> lines_outside_blocks(const std::string& readme) {
  std::vector<std::string> lines;
  std::string fence;
  const size_t end = readme.find("\n---\n", 3) + 5;
  for (size_t at = end; at < readme.size();) {
    const size_t stop = std::min(readme.find('\n', at), readme.size());
    std::string line = readme.substr(at, stop - at);
    at = stop + 1;
    const size_t ticks = std::min(line.find_first_not_of('`'), line.size());
    if (fence.empty() && ticks >= 3)
      fence = line.substr(0, ticks);
    else if (!fence.empty() && line == fence)
      fence.clear();
    else if (fence.empty())
      lines.push_back(std::move(line));
  }
  EXPECT_EQ(fence, "");
  return lines;
}

Card card_with(const std::string& text) {
  return {.title = text,
          .license = {"other", text, text},
          .languages = {text},
          .base_models = {text, "org/name"},
          .base_model_relation = "merge",
          .library_name = "transformers",
          .tags = {text, "moe"},
          .intro = {{card_text(text), card_code(text), card_link(text, text)}},
          .models = {{.intro = {card_text(text)},
                      .first = 0,
                      .models = {{.name = {card_link(text, "org/name")}, .description = {card_text(text)}}}}},
          .numbers = {.columns = {text, "b"}, .rows = {{card_code(text), card_text(text)}}},
          .sections = {{.heading = text, .paragraphs = {{card_text(text)}}}},
          .scores = {{.task = text, .dataset = text, .metric = text, .filter = text, .value = 1e-5}},
          .configuration = text,
          .usage = {{.heading = text, .blocks = {{"sh", text}}}},
          .quantised = {text}};
}

TEST(Card, FrontMatterHoldsTheVeryTexts) {
  for (const std::string& text : kHostile) {
    const YamlNode front = front_of(render_card(card_with(text)));
    ASSERT_EQ(front.kind, YamlNode::Kind::map);
    EXPECT_EQ(front_matter_list(front, "language"), std::vector{text});
    EXPECT_EQ(front_matter_list(front, "base_model"), (std::vector{text, std::string("org/name")}));
    EXPECT_EQ(front_matter_list(front, "tags"), (std::vector{text, std::string("moe")}));
    EXPECT_EQ(front.find("license_name")->scalar, text);
    const YamlNode& index = front.find("model-index")->items[0];
    EXPECT_EQ(index.find("name")->scalar, text);
    const YamlNode& result = index.find("results")->items[0];
    EXPECT_EQ(result.find("dataset")->find("type")->scalar, text);
    EXPECT_EQ(result.find("metrics")->items[0].find("type")->scalar, text);
    EXPECT_EQ(result.find("metrics")->items[0].find("value")->scalar, "0.0");
  }
}

// Every text stands in the same places, so nothing but the card's own lines begins a heading, list or table.
TEST(Card, NoTextBeginsABlock) {
  const auto shape = [](const std::string& text) {
    std::string out;
    for (const std::string& line : lines_outside_blocks(render_card(card_with(text)))) {
      const size_t digits = std::min(line.find_first_not_of("0123456789"), line.size());
      const char first = line.empty() ? '.' : line[0];
      const bool number = digits > 0 && (line.substr(digits, 1) == "." || line.substr(digits, 1) == ")");
      out += number || std::string("#-+>=|<~.").find(first) != std::string::npos ? first : 't';
    }
    return out;
  };
  const std::string plain = shape("plain");
  for (const std::string& text : kHostile) {
    if (text.find_first_not_of(" \r\n\t") == std::string::npos) continue;  // nothing is left of it
    EXPECT_EQ(shape(text), plain) << text;
  }
}

TEST(Card, TablesKeepTheirColumns) {
  for (const std::string& text : kHostile)
    for (const std::string& line : lines_outside_blocks(render_card(card_with(text)))) {
      if (!line.starts_with("| ")) continue;
      int bars = 0;
      for (size_t i = 0; i < line.size(); i++) {
        if (line[i] == '\\')
          i++;  // as GFM reads a row: what a backslash is in front of divides nothing
        else if (line[i] == '|')
          bars++;
      }
      EXPECT_TRUE(bars == 3 || bars == 6) << line;  // two columns, or the five of the scores
    }
}

TEST(Card, NoHtmlAndNoControlCharacter) {
  for (const std::string& text : kHostile) {
    const std::string readme = render_card(card_with(text));
    for (const std::string& line : lines_outside_blocks(readme)) {
      bool code = false;
      for (size_t i = 0; i < line.size(); i++) {
        if (line[i] == '`') code = !code;
        if (line[i] == '\\')
          i++;
        else if (line[i] == '<' && !code && !line.starts_with("<!-- moerge card: "))
          ADD_FAILURE() << line;
      }
    }
    EXPECT_EQ(std::ranges::count_if(
                  readme, [](unsigned char c) { return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f; }),
              0);
  }
}

TEST(Card, TextsAsTheyAreShown) {
  const auto intro = [](CardText text) {
    const std::string readme = render_card({.title = "t", .intro = {std::move(text)}});
    const size_t begin = readme.find("# t\n\n") + 5;
    return readme.substr(begin, readme.find("\n\n", begin) - begin);
  };
  EXPECT_EQ(intro({card_text("1. of *all* a_b _c_ <d> [e] #f g#h")}),
            "1\\. of \\*all\\* a_b \\_c\\_ \\<d\\> \\[e\\] \\#f g#h");
  EXPECT_EQ(intro({card_code("a`b")}), "``a`b``");
  EXPECT_EQ(intro({card_code("`a`")}), "`` `a` ``");
  EXPECT_EQ(intro({card_code("a\nb")}), "`a b`");
  EXPECT_EQ(intro({card_text("from "), card_link("org/a@v1", "org/a"), card_text(".")}),
            "from [`org/a@v1`](https://huggingface.co/org/a).");
  EXPECT_EQ(intro({card_link("x", "a) b\"/c")}), "[`x`](https://huggingface.co/a%29%20b%22/c)");
  EXPECT_EQ(intro({card_link("folder", "")}), "`folder`");
}

TEST(Card, FrontMatterIsShort) {
  const std::string readme = render_card({.title = "t",
                                          .license = {"apache-2.0", "", ""},
                                          .languages = {"en", "no"},
                                          .base_models = {"org/a", "org/a"},
                                          .base_model_relation = "merge",
                                          .tags = {"moe", "moe", ""}});
  EXPECT_TRUE(readme.starts_with(
      "---\nlanguage:\n- en\n- \"no\"\nlicense: apache-2.0\nbase_model:\n- \"org/a\"\n"
      "base_model_relation: merge\ntags:\n- moe\npipeline_tag: text-generation\n---\n\n# t\n"))
      << readme;
}

TEST(Card, ScoresInTheTableAndInTheModelIndex) {
  const std::string readme = render_card({.title = "t",
                                          .scores = {{.task = "arc_challenge",
                                                      .dataset = "allenai/ai2_arc",
                                                      .dataset_config = "ARC-Challenge",
                                                      .split = "test",
                                                      .metric = "acc_norm",
                                                      .value = 0.66305,
                                                      .error = 0.0138,
                                                      .shots = 25}}});
  EXPECT_NE(readme.find("| `arc_challenge` | `acc_norm` | 25 | 0.6631 | 0.0138 |\n"), std::string::npos)
      << readme;
  const YamlNode front = front_of(readme);
  const YamlNode& result = front.find("model-index")->items[0].find("results")->items[0];
  EXPECT_EQ(result.find("task")->find("type")->scalar, "text-generation");
  EXPECT_EQ(result.find("dataset")->find("type")->scalar, "allenai/ai2_arc");
  EXPECT_EQ(result.find("dataset")->find("config")->scalar, "ARC-Challenge");
  EXPECT_EQ(result.find("dataset")->find("args")->find("num_few_shot")->scalar, "25");
  EXPECT_EQ(result.find("metrics")->items[0].find("name")->scalar, "normalized accuracy");
}

TEST(Card, KnowsItsOwnText) {
  const std::string readme = render_card(card_with("a"));
  EXPECT_EQ(card_state(readme), CardState::ours);
  EXPECT_EQ(card_state(readme + "More.\n"), CardState::edited);
  std::string changed = readme;
  changed[changed.find("# a")] = '!';
  EXPECT_EQ(card_state(changed), CardState::edited);
  EXPECT_EQ(card_state("# A model\n"), CardState::foreign);
  EXPECT_EQ(card_state(""), CardState::foreign);
  for (const std::string& text : kHostile)
    EXPECT_EQ(card_state(render_card(card_with(text))), CardState::ours);
}

TEST(ShellWord, IsOneWord) {
  EXPECT_EQ(shell_word("model.Q4_K_M.gguf"), "model.Q4_K_M.gguf");
  EXPECT_EQ(shell_word("a b"), "'a b'");
  EXPECT_EQ(shell_word("it's $HOME"), "'it'\\''s $HOME'");
  EXPECT_EQ(shell_word("-rf"), "./-rf");
  EXPECT_EQ(shell_word("-r f"), "'./-r f'");
  EXPECT_EQ(shell_word(""), "''");
  EXPECT_EQ(shell_word("a\n#'b\\"), "$'a\\x0a#\\'b\\\\'");
}

}  // namespace
}  // namespace moerge
