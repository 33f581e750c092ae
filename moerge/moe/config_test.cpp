#include "moerge/moe/config.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/moe/gates/gate.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {

MoeConfig parse(const std::string& yaml, bool allow_all_same = false) {
  return parse_moe_config(yaml, "c.yaml", allow_all_same);
}

std::string message_of(const std::string& yaml) {
  try {
    parse(yaml);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    return error.what();
  }
  return "";
}

void expect_refused(const std::string& yaml, const std::string& because) {
  const std::string message = message_of(yaml);
  EXPECT_NE(message.find(because), std::string::npos) << "expected: " << because << "\nfound: " << message;
}

const std::string kTwo = R"(base_model: base
experts:
  - source_model: a
    positive_prompts: [code]
  - source_model: b
    positive_prompts: [maths]
    negative_prompts: [story]
    noise_scale: 0.1
    residual_scale: 0.5
)";

TEST(MoeConfig, ReadsTheWholeSchema) {
  const MoeConfig config =
      parse(kTwo + "gate_mode: cheap_embed\ndtype: float16\nexperts_per_token: 1\narchitecture: mixtral\n");
  EXPECT_EQ(config.base_model, "base");
  ASSERT_EQ(config.experts.size(), 2u);
  EXPECT_EQ(config.experts[1].negative_prompts, (std::vector<std::string>{"story"}));
  EXPECT_EQ(config.experts[1].noise_scale, 0.1);
  EXPECT_EQ(config.experts[1].residual_scale, 0.5);
  EXPECT_EQ(config.gate_mode, "cheap_embed");
  EXPECT_EQ(config.dtype, DType::f16);
  EXPECT_EQ(config.experts_per_token, 1);
  EXPECT_TRUE(config.warnings.empty());
}

TEST(MoeConfig, DefaultsAreMergekits) {
  const MoeConfig config = parse(kTwo);
  EXPECT_EQ(config.gate_mode, "hidden");
  EXPECT_EQ(config.experts_per_token, 0);  // settled when the base is known
  EXPECT_FALSE(config.dtype);
  EXPECT_EQ(config.experts[0].residual_scale, 1);
}

TEST(MoeConfig, OneSentenceForOneMistake) {
  for (const char* yaml : {"base_model: base\nexperts: one\n",
                           "base_model: base\nexperts:\n  - source_model: a\n    positive_prompts: {a: b}\n"
                           "  - source_model: b\n    positive_prompts: [x]\n"}) {
    const std::string message = message_of(yaml);
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(MoeConfig, ScalesBeyondFloat32AreRefused) {
  expect_refused(kTwo + "  - {source_model: c, positive_prompts: [q], noise_scale: 1e300}\n",
                 "beyond float32");
  expect_refused(kTwo + "  - {source_model: c, positive_prompts: [q], residual_scale: -1e39}\n",
                 "beyond float32");
}

TEST(MoeConfig, ModelsAsMaps) {
  const auto with_base = [](const std::string& map) {
    return "base_model: " + map + "\n" + kTwo.substr(kTwo.find('\n') + 1);
  };
  const auto base = [&](const std::string& map) { return parse(with_base(map)).base_model; };
  EXPECT_EQ(base("{model: {path: x}}"), "x");
  EXPECT_EQ(base("{model: {path: x, revision: y}}"), "x@y");
  EXPECT_EQ(base("{model: x, lora: y}"), "x+y");
  EXPECT_EQ(base("{model: {path: x, revision: v}, lora: {path: y, revision: w}}"), "x@v+y@w");
  EXPECT_EQ(base("{model: x, lora: null}"), "x");
  EXPECT_EQ(base("{path: x, revision: null}"), "x");
  expect_refused(with_base("{model: x, override_architecture: y}"),
                 "c.yaml:1:24: \"override_architecture\" of a model is not supported");
  expect_refused(with_base("{model: x, lora: [y]}"), "c.yaml:1:30");
}

TEST(MoeConfig, ShowsAllProblemsTogether) {
  const std::string message = message_of(
      "base_modle: x\nexperts:\n  - source_model: a\n    postive_prompts: [x]\n  - positive_prompts: [y]\n"
      "gate_mode: hiden\ndtype: bf17\nexperts_per_token: 0\n");
  for (const char* part :
       {"c.yaml:1:1: unknown key \"base_modle\" (did you mean \"base_model\"?)",
        "c.yaml:4:5: unknown key \"postive_prompts\"", "c.yaml:5:5: this expert has no \"source_model\"",
        "c.yaml:6:12: unknown gate_mode \"hiden\" (did you mean \"hidden\"?)", "cheap_embed",
        "c.yaml:7:8: unknown dtype \"bf17\"", "c.yaml:8:20: \"experts_per_token\" should be at least 1",
        "no \"base_model\""})
    EXPECT_NE(message.find(part), std::string::npos) << part << "\nin\n" << message;
}

TEST(MoeConfig, Refusals) {
  expect_refused("", "should be a map");
  expect_refused("- a\n", "should be a map");
  expect_refused("base_model: x\n", "no \"experts\"");
  expect_refused("base_model: x\nexperts: []\n", "no \"experts\"");
  expect_refused("base_model: x\nexperts: a\n", "should be a list");
  expect_refused("base_model: x\nexperts: [a]\n", "an expert should be a map");
  expect_refused("merge_method: slerp\nslices: []\n", "dense merge");
  expect_refused(kTwo + "experts_per_token: 0\n", "at least 1");
  expect_refused(
      "base_model: x\nexperts:\n  - source_model: a\n    positive_prompts: [p]\n  - source_model: a\n    "
      "positive_prompts: [q]\n",
      "same model");
  expect_refused(
      "base_model: x\nexperts:\n  - source_model: a\n    positive_prompts: [p]\n  - source_model: b\n    "
      "positive_prompts: [p]\n",
      "same prompts");
  expect_refused(
      "base_model: x\nexperts:\n  - source_model: a\n  - source_model: b\n    positive_prompts: [p]\n",
      "expert 0 (\"a\") has no \"positive_prompts\"");
  expect_refused(
      "base_model: x\nexperts:\n  - source_model: a\n    noise_scale: -1\n    positive_prompts: [p]\n",
      "cannot be negative");
}

// What settling the number of a configuration says, or the number.
std::string settled(const std::string& yaml, int64_t existing_experts, int64_t existing) {
  MoeConfig config = parse(yaml);
  try {
    settle_experts_per_token(config, existing_experts, existing);
  } catch (const Error& error) {
    return error.message();
  }
  return std::to_string(config.experts_per_token);
}

TEST(MoeConfig, ExpertsPerTokenAreSettledWithTheBase) {
  const std::string one = "base_model: x\nexperts:\n  - source_model: a\n    positive_prompts: [p]\n";
  EXPECT_EQ(settled(kTwo, 0, 0), "2");
  EXPECT_EQ(settled(kTwo + "experts_per_token: 1\n", 0, 0), "1");
  EXPECT_EQ(
      settled(one, 0, 0),
      "c.yaml:3:3: \"experts_per_token\" is 2 (the default), but there is 1 expert: name more experts, or "
      "write \"experts_per_token: 1\"");
  EXPECT_EQ(settled(kTwo + "experts_per_token: 3\n", 0, 0).substr(0, 57),
            "c.yaml:10:20: \"experts_per_token\" is 3, but there are 2 e");
  EXPECT_EQ(settled(one, 60, 4), "4");
  EXPECT_EQ(settled(one, 1, 1), "1");
  EXPECT_EQ(settled(one + "experts_per_token: 9\n", 8, 2), "9");
  EXPECT_NE(
      settled(one + "experts_per_token: 10\n", 8, 2).find("there are 9 experts (the base's 8 included)"),
      std::string::npos);
}

TEST(MoeConfig, WhatMergekitRefusesForNoReason) {
  const std::string bare = "base_model: x\nexperts:\n  - source_model: a\n  - source_model: b\n";
  EXPECT_EQ(message_of(bare + "gate_mode: random\n"), "");
  EXPECT_EQ(message_of(bare + "gate_mode: uniform_random\n"), "");
  EXPECT_EQ(
      message_of(
          "base_model: x\nexperts_per_token: 1\nexperts:\n  - source_model: a\n    positive_prompts: [p]\n"),
      "");
}

TEST(MoeConfig, AllSameModelWhenInsistedOn) {
  EXPECT_EQ(
      parse("base_model: x\ngate_mode: random\nexperts:\n  - source_model: a\n  - source_model: a\n", true)
          .experts.size(),
      2u);
}

TEST(MoeConfig, WarnsOfForeignKeysAndEmptyPrompts) {
  const MoeConfig config = parse(kTwo + "tokenizer_source: union\n");
  ASSERT_EQ(config.warnings.size(), 1u);
  EXPECT_NE(config.warnings[0].find("c.yaml:10:1: unknown key \"tokenizer_source\" is ignored"),
            std::string::npos);
}

TEST(GateModes, EveryModeIsFoundByItsName) {
  for (const GateMode& mode : gate_modes()) {
    EXPECT_EQ(find_gate_mode(mode.name), &mode);
    EXPECT_FALSE(mode.summary.empty());
    EXPECT_NE(mode.make, nullptr);
    EXPECT_EQ(parse(kTwo + fmt::format("gate_mode: {}\n", mode.name)).gate_mode, mode.name);
  }
}

TEST(MoeConfig, ChatTemplateIsOneOfFourThings) {
  using Kind = ChatTemplateChoice::Kind;
  const testing::TempDir dir;
  dir.write("t.jinja", "x");
  dir.write("chatml", "x");
  dir.write("folder/f", "x");
  const std::string yaml = dir / "c.yaml";
  const auto choose = [&](const std::string& value) {
    return parse_moe_config(kTwo + "chat_template: " + value + "\n", yaml, false).chat_template;
  };
  EXPECT_EQ(parse(kTwo).chat_template.kind, Kind::unchanged);
  EXPECT_EQ(choose("null").kind, Kind::unchanged);
  EXPECT_EQ(choose("base").kind, Kind::base);
  EXPECT_EQ(choose("base").place, yaml + ":10:16");
  EXPECT_EQ(choose("b").kind, Kind::expert);
  EXPECT_EQ(choose("b").expert, 1u);
  for (const char* name : {"chatml", "llama3", "mistral", "alpaca", "exaone"})
    EXPECT_EQ(choose(name).kind, Kind::built_in) << name;
  EXPECT_EQ(choose("./chatml").file, dir / "./chatml");
  EXPECT_EQ(choose("t.jinja").kind, Kind::file);
  EXPECT_EQ(choose((dir / "t.jinja").string()).file, dir / "t.jinja");
  // An expert of a built-in template's name comes first.
  std::string named = kTwo + "chat_template: chatml\n";
  named.replace(named.find("source_model: b"), 15, "source_model: chatml");
  EXPECT_EQ(parse_moe_config(named, yaml, false).chat_template.kind, Kind::expert);
}

TEST(MoeConfig, UnknownChatTemplate) {
  expect_refused(kTwo + "chat_template: chatlm\n",
                 "c.yaml:10:16: unknown chat_template \"chatlm\" (did you mean \"chatml\"?); possible are "
                 "\"base\", an expert's source_model as it is written here, chatml, llama3, mistral, alpaca, "
                 "exaone, or a "
                 "file (there is no chatlm)");
  expect_refused(kTwo + "chat_template: /\n", "c.yaml:10:16: unknown chat_template \"/\"");
  expect_refused(kTwo + "chat_template: ''\n", "c.yaml:10:16: unknown chat_template \"\"");
  expect_refused(kTwo + "chat_template: [base]\n", "c.yaml:10:16: ");
  expect_refused(kTwo + "chat_templat: base\n", "chat_template");
}

const std::string kData = R"(base_model: base
max_tokens: 100
experts:
  - source_model: a
    data: text/a.txt
  - source_model: b
    positive_prompts: [maths]
    data: ["/home/me/b.jsonl", 'more/']
    max_tokens: 7
)";

TEST(MoeConfig, ReadsData) {
  const MoeConfig config = parse_moe_config(kData, "folder/c.yaml", false);
  const ExpertConfig &a = config.experts[0], &b = config.experts[1];
  ASSERT_EQ(a.data.size(), 1u);
  EXPECT_EQ(a.data[0].written, "text/a.txt");
  EXPECT_EQ(a.data[0].path, "folder/text/a.txt");
  EXPECT_EQ(a.data[0].place, "folder/c.yaml:5:11");
  EXPECT_EQ(a.max_tokens, 100);
  ASSERT_EQ(b.data.size(), 2u);
  EXPECT_EQ(b.data[0].path, "/home/me/b.jsonl");
  EXPECT_EQ(b.data[1].place, "folder/c.yaml:8:32");
  EXPECT_EQ(b.max_tokens, 7);
  EXPECT_EQ(parse(kTwo).experts[0].max_tokens, 16384);
  EXPECT_TRUE(parse(kTwo).experts[0].data.empty());
}

TEST(MoeConfig, ThePublicDocumentHasNoFolders) {
  std::string expected = kData;
  for (const auto& [from, to] : {std::pair("text/a.txt", "a.txt"), std::pair("/home/me/b.jsonl", "b.jsonl"),
                                 std::pair("'more/'", "'more'")})
    expected.replace(expected.find(from), std::string_view(from).size(), to);
  EXPECT_EQ(public_yaml(parse(kData)), expected);
  EXPECT_EQ(public_yaml(parse(kTwo)), kTwo);
  const std::string aliases =
      "base_model: x/y\nexperts:\n  - {source_model: x/y, data: &d [x/y]} # x/y\n  - source_model: b\n    "
      "data: "
      "[\n      x/y, z]\n";
  EXPECT_EQ(public_yaml(parse(aliases)),
            "base_model: x/y\nexperts:\n  - {source_model: x/y, data: &d [y]} # x/y\n  - source_model: b\n   "
            " data: "
            "[\n      y, z]\n");
}

TEST(MoeConfig, DataOfTheWrongKind) {
  const std::string message = message_of(
      "base_model: base\nmax_tokens: 0\nexperts:\n  - source_model: a\n    data: {a: b}\n  - source_model: "
      "b\n"
      "    data: [x, [y], '', null]\n    max_tokens: -3\n  - source_model: c\n    data: []\n    max_tokens: "
      "1.5\n"
      "  - source_model: d\n    dat: x\n    positive_prompts: [d]\n");
  for (const char* sentence :
       {"c.yaml:2:13: \"max_tokens\" should be at least 1, found 0",
        "c.yaml:5:11: \"data\" should be a path or a list of paths, found a map",
        "c.yaml:7:15: \"data\" should be a path or a list of paths, found a list",
        "c.yaml:7:20: \"data\" should be a path or a list of paths, found an empty text",
        "c.yaml:7:24: \"data\" should be a path or a list of paths, found nothing",
        "c.yaml:8:17: \"max_tokens\" should be at least 1, found -3",
        "c.yaml:10:11: \"data\" is an empty list", "c.yaml:11:17: \"max_tokens\"", "c.yaml:13:5: "})
    EXPECT_NE(message.find(sentence), std::string::npos) << sentence << "\n" << message;
  EXPECT_EQ(message.find("positive_prompts"), std::string::npos) << message;
}

TEST(MoeConfig, RefusesMoreDataThanAnybodyLists) {
  std::string yaml =
      "base_model: base\nexperts:\n  - {source_model: b, positive_prompts: [x]}\n  - source_model: a\n    "
      "data:\n";
  for (int i = 0; i < 10'001; i++) yaml += fmt::format("      - {}\n", i);
  EXPECT_NE(message_of(yaml).find("10001 files and folders under \"data\", at most 10000 are read"),
            std::string::npos);
}

TEST(MoeConfig, DataIsAsGoodAsPrompts) {
  const std::string bare =
      "base_model: x\nexperts:\n  - source_model: a\n    data: a.txt\n  - source_model: b\n";
  EXPECT_EQ(message_of(bare + "    data: b.txt\n"), "");
  EXPECT_EQ(
      message_of(bare),
      "c.yaml:5:5: expert 1 (\"b\") has no \"positive_prompts\" and no \"data\", and gate_mode \"hidden\" "
      "needs one of them (gate_mode \"random\" needs none)");
  EXPECT_EQ(
      message_of(bare + "    data: [a.txt]\n"),
      "c.yaml:3:3: all experts have the same prompts and data, so the router could not tell them apart: give "
      "each its own, or use gate_mode \"random\"");
}

TEST(MoeConfig, AutoBecomesAMode) {
  const MoeConfig config = parse(kData + "gate_mode: auto\n");
  EXPECT_EQ(config.gate_mode, "ridge");
  EXPECT_EQ(config.gate_mode_reason, "every expert has data");
  EXPECT_EQ(parse(kTwo + "gate_mode: auto\n").gate_mode, "hidden");
  EXPECT_EQ(parse(kTwo + "gate_mode: hidden\n").gate_mode_reason, "");
  expect_refused(kTwo + "gate_mode: atuo\n", "(did you mean \"auto\"?)");
}

TEST(MoeConfig, OfAFinishedFolderNamesWhatIsGone) {
  const std::string yaml = kTwo + "chat_template: gone.jinja\n";
  expect_refused(yaml, "unknown chat_template \"gone.jinja\"");
  const MoeConfig config = parse_finished_config(yaml, "c.yaml");
  EXPECT_EQ(config.chat_template.kind, ChatTemplateChoice::Kind::file);
  EXPECT_EQ(config.chat_template.value, "gone.jinja");
  EXPECT_EQ(parse_finished_config(
                "base_model: a\nexperts: [{source_model: b, positive_prompts: x}, {source_model: b, "
                "positive_prompts: y}]\n",
                "c.yaml")
                .experts.size(),
            2u);
}

}  // namespace
}  // namespace moerge
