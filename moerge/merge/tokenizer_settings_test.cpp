#include "moerge/merge/tokenizer_settings.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "moerge/base/error.h"

namespace moerge {
namespace {

using Kind = TokenSource::Kind;
using Source = TokenizerSettings::Source;

struct Result {
  std::optional<TokenizerSettings> settings;
  std::string errors;
  std::vector<std::string> warnings;
};

Result read(const std::string& yaml) {
  YamlProblems problems("m.yaml");
  Result out;
  const YamlNode root = parse_yaml(yaml, "m.yaml");
  out.settings = read_tokenizer_settings(root, "m.yaml", problems);
  out.warnings = problems.warnings();
  try {
    problems.throw_if_any();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    out.errors = error.message();
  }
  return out;
}

TEST(TokenizerSettings, Source) {
  EXPECT_FALSE(read("merge_method: linear\n").settings);
  EXPECT_FALSE(read("tokenizer_source:\ntokenizer: null\n").settings);
  EXPECT_EQ(read("tokenizer_source: union\n").settings->source, Source::union_);
  EXPECT_EQ(read("tokenizer_source: base\n").settings->source, Source::base);
  EXPECT_EQ(read("tokenizer: {source: base}\n").settings->source, Source::base);
  EXPECT_EQ(read("tokenizer: {}\n").settings->source, Source::union_);
  const Result model = read("tokenizer_source: {model: {path: org/chat, revision: v2}}\n");
  EXPECT_EQ(model.settings->source, Source::model);
  EXPECT_EQ(model.settings->model, "org/chat@v2");
  EXPECT_EQ(model.settings->place, "m.yaml:1:19");
  EXPECT_EQ(model.errors, "");
  const Result typo = read("tokenizer_source: bass\n");
  ASSERT_EQ(typo.warnings.size(), 1u);
  EXPECT_NE(typo.warnings[0].find("did you mean \"base\"?"), std::string::npos);
}

TEST(TokenizerSettings, Tokens) {
  const Result result = read(R"(tokenizer:
  source: union
  pad_to_multiple_of: 64
  tokens:
    <|im_start|>: {source: org/chat}
    "a b": {source: {kind: model_token, model: {model: org/chat, lora: org/lora}, token: "<s>"}, force: True}
    <|x|>: {source: {kind: model_token, model: b, token_id: 7}}
    <|zero|>: {source: {kind: zero}, force: false}
    <|some|>: {}
    <|null|>:
    "17": {source: {model: {path: c}}}
)");
  EXPECT_EQ(result.errors, "");
  const TokenizerSettings& settings = *result.settings;
  EXPECT_EQ(settings.pad_to_multiple_of, 64);
  ASSERT_EQ(settings.tokens.size(), 7u);
  const auto& [first, start] = settings.tokens[0];
  EXPECT_EQ(first, "<|im_start|>");
  EXPECT_EQ(start.kind, Kind::model);
  EXPECT_EQ(start.model, "org/chat");
  EXPECT_FALSE(start.force);
  EXPECT_EQ(start.place, "m.yaml:5:5");
  EXPECT_EQ(settings.tokens[1].first, "a b");
  EXPECT_EQ(settings.tokens[1].second.kind, Kind::model_token);
  EXPECT_EQ(settings.tokens[1].second.model, "org/chat+org/lora");
  EXPECT_EQ(settings.tokens[1].second.token, "<s>");
  EXPECT_FALSE(settings.tokens[1].second.token_id);
  EXPECT_TRUE(settings.tokens[1].second.force);
  EXPECT_EQ(settings.tokens[2].second.token_id, 7);
  EXPECT_EQ(settings.tokens[3].second.kind, Kind::zero);
  EXPECT_EQ(settings.tokens[4].second.kind, Kind::automatic);
  EXPECT_EQ(settings.tokens[5].second.kind, Kind::automatic);
  EXPECT_EQ(settings.tokens[6].second.model, "c");
  EXPECT_EQ(settings.models(), (std::vector<std::string>{"org/chat", "org/chat+org/lora", "b", "c"}));
}

TEST(TokenizerSettings, SaysWhatIsWrong) {
  constexpr std::pair<const char*, const char*> kRows[] = {
      {"tokenizer_source: base\ntokenizer: {}\n", "m.yaml:2:12: both \"tokenizer_source\" and \"tokenizer\""},
      {"tokenizer: base\n", "m.yaml:1:12: \"tokenizer\" (or \"tokenizer_source: base\") should be a map"},
      {"tokenizer_source: [a]\n", "tokenizer_source"},
      {"tokenizer_source: ''\n", "\"union\", \"base\" or a model, found nothing"},
      {"tokenizer: {sorce: base}\n", "did you mean \"source\"?"},
      {"tokenizer: {pad_to_multiple_of: 0}\n", "should be 1 to 65536, found 0"},
      {"tokenizer: {pad_to_multiple_of: 70000}\n", "found 70000"},
      {"tokenizer: {pad_to_multiple_of: x}\n", "should be a whole number"},
      {"tokenizer: {tokens: [a]}\n", "\"tokens\" should be a map"},
      {"tokenizer: {tokens: {'': {source: a}}}\n", "a token of no letters"},
      {"tokenizer: {tokens: {a: b}}\n", "m.yaml:1:25: token \"a\" should be a map"},
      {"tokenizer: {tokens: {a: {sorce: b}}}\n", "did you mean \"source\"?"},
      {"tokenizer: {tokens: {a: {source: ''}}}\n", "the \"source\" has no letters"},
      {"tokenizer: {tokens: {a: {force: true}}}\n", "token \"a\" has \"force\" and no \"source\""},
      {"tokenizer: {tokens: {a: {source: b, force: maybe}}}\n", "should be true or false, found \"maybe\""},
      {"tokenizer: {tokens: {a: {source: {kind: modeltoken}}}}\n", "did you mean \"model_token\"?"},
      {"tokenizer: {tokens: {a: {source: {kind: zero, token: x}}}}\n", "\"kind: zero\" has no \"token\""},
      {"tokenizer: {tokens: {a: {source: {kind: model_token, token: x}}}}\n", "needs a \"model\""},
      {"tokenizer: {tokens: {a: {source: {kind: model_token, model: m}}}}\n", "needs either \"token\""},
      {"tokenizer: {tokens: {a: {source: {kind: model_token, model: m, token: x, token_id: 1}}}}\n",
       "needs either \"token\""},
      {"tokenizer: {tokens: {a: {source: {kind: model_token, model: m, token_id: -1}}}}\n",
       "counts from 0, found -1"},
      {"tokenizer: {tokens: {a: {source: {kind: model_token, model: m, token_id: one}}}}\n",
       "should be a whole number"},
  };
  for (const auto& [yaml, said] : kRows)
    EXPECT_NE(read(yaml).errors.find(said), std::string::npos) << yaml << "says: " << read(yaml).errors;
}

TEST(TokenizerSettings, AllProblemsTogether) {
  const std::string errors =
      read("tokenizer:\n  pad_to_multiple_of: -1\n  tokens:\n    a: {source: {kind: x}}\n    b: 1\n").errors;
  EXPECT_EQ(std::ranges::count(errors, '\n'), 2) << errors;
}

}  // namespace
}  // namespace moerge
