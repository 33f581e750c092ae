#include "moerge/eval/llama_model.h"

#include <gtest/gtest.h>

#include <map>

#include "moerge/base/error.h"
#include "moerge/testing/tiny_gguf.h"

namespace moerge {
namespace {
using testing::TempDir;
using Tokens = std::vector<int32_t>;

enum : int32_t { kBos, kEos, kSpace, kLine, kA, kB, kC, kD, kE, kQ, kAB, kSpaceA, kColon, kDot, kHigh, kLow };
constexpr double kRounding = 1e-5;
constexpr size_t kContext = 64;

GgufMetadata metadata(bool adds_bos) {
  GgufMetadata m = testing::tiny_gguf_metadata();
  // The last two are the bytes 0xc3 and 0xa9: "é" needs both.
  m.set("tokenizer.ggml.tokens", std::vector<std::string>{"<s>", "</s>", "Ġ", "Ċ", "a", "b", "c", "d", "e",
                                                          "Q", "ab", "Ġa", ":", ".", "Ã", "©"});
  std::vector<int32_t> types(16, 1);
  types[kBos] = types[kEos] = 3;
  m.set("tokenizer.ggml.token_type", types);
  m.set("tokenizer.ggml.merges", std::vector<std::string>{"a b", "Ġ a"});
  m.set("tokenizer.ggml.eos_token_id", uint32_t{kEos});
  m.set("tokenizer.ggml.add_bos_token", adds_bos);
  return m;
}

// Without layers that matter the next token depends on the last one alone: `after` says which it is.
std::vector<testing::TinyGgufTensor> parrot(const std::map<int32_t, int32_t>& after) {
  std::vector<testing::TinyGgufTensor> tensors = testing::tiny_gguf_tensors(1);
  const auto set = [](testing::TinyGgufTensor& tensor, int64_t at, float value) {
    tensor.bytes.replace(static_cast<size_t>(at) * 4, 4, reinterpret_cast<const char*>(&value), 4);
  };
  for (testing::TinyGgufTensor& tensor : tensors) {
    const std::string& name = tensor.spec.name;
    const bool vocabulary = name == "token_embd.weight" || name == "output.weight";
    const bool block = name.starts_with("blk.") && name.find("norm") == std::string::npos;
    if (vocabulary || block) tensor.bytes.assign(tensor.bytes.size(), '\0');
    if (name == "output_norm.weight")
      for (int64_t i = 0; i < 8; i++) set(tensor, i, 1.0f);
    int64_t column = 0;  // one of 8 for each pair
    for (const auto& [last, next] : after) {
      if (name == "token_embd.weight") set(tensor, last * 8 + column, 1.0f);
      if (name == "output.weight") set(tensor, next * 8 + column, 1.0f);
      column++;
    }
  }
  return tensors;
}

struct Fixture {
  explicit Fixture(bool adds_bos = false,
                   const std::vector<testing::TinyGgufTensor>& tensors = testing::tiny_gguf_tensors(1))
      : model(
            TokenModelOptions{.model = dir.write("m.gguf", testing::gguf_bytes(metadata(adds_bos), tensors)),
                              .llama_flags = {"-t", "1"}}),
        tokens(TokenModelOptions{.model = dir / "m.gguf", .llama_flags = {"-t", "1"}}) {}

  std::vector<Loglikelihood> score(const std::vector<LoglikelihoodRequest>& requests) {
    std::vector<Loglikelihood> found(requests.size());
    std::vector<int> told(requests.size());
    model.score(requests, [&](size_t i, const Loglikelihood& answer) {
      found.at(i) = answer;
      told.at(i)++;
    });
    EXPECT_EQ(told, std::vector<int>(requests.size(), 1));
    return found;
  }

  // That a request is asked as these tokens, the first of them the context's.
  void expect_tokens(const std::string& context, const std::string& continuation, const Tokens& before,
                     const Tokens& after) {
    TokenQuery query{before, before.size()};
    query.tokens.insert(query.tokens.end(), after.begin(), after.end());
    double expected = 1;
    tokens.score(std::vector<TokenQuery>{query}, [&](size_t, const TokenScore& s) { expected = s.value; });
    const Loglikelihood found = score({{context, continuation}})[0];
    EXPECT_NEAR(found.value, expected, kRounding) << context << "|" << continuation;
    EXPECT_EQ(found.tokens, std::ssize(after)) << context << "|" << continuation;
  }

  std::vector<GeneratedText> generate(const std::vector<GenerationRequest>& requests) {
    std::vector<GeneratedText> found(requests.size());
    std::vector<int> told(requests.size());
    model.generate(requests, [&](size_t i, const GeneratedText& answer) {
      found.at(i) = answer;
      told.at(i)++;
    });
    EXPECT_EQ(told, std::vector<int>(requests.size(), 1));
    return found;
  }

  std::string refusal(const std::vector<LoglikelihoodRequest>& requests) {
    try {
      score(requests);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  TempDir dir;
  LlamaModel model;
  TokenModel tokens;
};

TEST(LlamaModel, TokensOfContextAndContinuationTogether) {
  Fixture f;
  f.expect_tokens("Q:", " a", {kQ, kColon}, {kSpaceA});
  f.expect_tokens("Q:", " ab", {kQ, kColon}, {kSpace, kAB});
  f.expect_tokens("Qa", "bc", {kQ, kA}, {kC});           // "ab" is one token: what the context's count leaves
  f.expect_tokens("Q: ", "a", {kQ, kColon}, {kSpaceA});  // the space is the continuation's
  f.expect_tokens("Q:\n ", "a", {kQ, kColon}, {kLine, kSpaceA});
  f.expect_tokens("<s>Q", "a", {kBos, kQ}, {kA});
}

TEST(LlamaModel, BeginningOfSequence) {
  Fixture f(true);
  f.expect_tokens("Q:", " a", {kBos, kQ, kColon}, {kSpaceA});
  f.expect_tokens("<s>Q:", " a", {kBos, kQ, kColon}, {kSpaceA});  // not twice
}

TEST(LlamaModel, EmptyContext) {
  for (const bool adds_bos : {false, true}) {
    Fixture f(adds_bos);
    f.expect_tokens("", "abc", {kBos}, {kAB, kC});
    f.expect_tokens("", "<s>c", {kBos}, {kC});
    f.expect_tokens(" ", "a", {kBos}, {kSpaceA});
  }
}

TEST(LlamaModel, LongTextsLoseTheirBeginning) {
  Fixture f;
  const std::string context(100, 'c');
  f.expect_tokens(context, "de", Tokens(kContext - 1, kC), {kD, kE});
  f.expect_tokens(std::string(kContext - 1, 'c'), "de", Tokens(kContext - 1, kC), {kD, kE});  // just fits
  const auto answers =
      f.score({{context, "de"}, {context, "e"}, {"c", "d"}, {std::string(kContext - 1, 'c'), "de"}});
  EXPECT_EQ(answers[0].lost, 101 - kContext);
  EXPECT_EQ(answers[1].lost, 100 - kContext);
  EXPECT_EQ(answers[2].lost, 0);
  EXPECT_EQ(answers[3].lost, 0);
  f.expect_tokens("d", std::string(kContext, 'c'), {kD}, Tokens(kContext, kC));
  const std::string message = f.refusal({{"d", std::string(kContext + 1, 'c')}});
  EXPECT_NE(message.find("a continuation of 65 tokens"), std::string::npos) << message;
  EXPECT_NE(message.find("longer than the model's context of 64"), std::string::npos) << message;
}

TEST(LlamaModel, ContinuationsWithoutAToken) {
  Fixture f;
  EXPECT_NE(f.refusal({{"Q: c", ""}}).find("no token of its own: \"\" after \"Q: c\""), std::string::npos);
  EXPECT_NE(f.refusal({{"", ""}}).find("no token of its own"), std::string::npos);
  EXPECT_NE(f.refusal({{"Qa", "b"}}).find("no token of its own"), std::string::npos);  // "ab" is one token
}

TEST(LlamaModel, TogetherAsOneByOneAndEqualOnesOnce) {
  std::vector<LoglikelihoodRequest> requests;
  for (const char* context : {"Q: abc a", "Q: abc b", "Q: d", ""})
    for (const char* continuation : {" a", " ab", " c", " c.d", " a"})
      requests.push_back({context, continuation});
  Fixture f;
  const std::vector<Loglikelihood> together = f.score(requests);
  const int64_t computed = f.model.tokens().computed_tokens();
  for (size_t i = 0; i < requests.size(); i++) {
    const Loglikelihood alone = f.score({requests[i]})[0];
    EXPECT_NEAR(together[i].value, alone.value, kRounding);
    EXPECT_EQ(together[i].greedy, alone.greedy);
    EXPECT_EQ(together[i].tokens, alone.tokens);
  }
  EXPECT_EQ(together[0].value, together[4].value);
  EXPECT_LT(computed * 3, f.model.tokens().computed_tokens() - computed);
  EXPECT_TRUE(f.score({}).empty());
}

TEST(LlamaModel, WritesUntilAStop) {
  Fixture f(false, parrot({{kA, kB}, {kB, kC}, {kC, kDot}, {kDot, kD}, {kD, kA}, {kQ, kA}}));
  const auto answer = [&](std::vector<std::string> until, int64_t max_tokens = 12) {
    return f.generate({{.context = "Q", .until = std::move(until), .max_tokens = max_tokens}})[0];
  };
  EXPECT_EQ(answer({}).text, "abc.dabc.dab");
  EXPECT_EQ(answer({}, 3).text, "abc");
  EXPECT_EQ(answer({}, 3).tokens, 3);
  EXPECT_EQ(answer({}, 0).text, "");
  EXPECT_EQ(answer({"d"}).text, "abc.");
  EXPECT_EQ(answer({"da", ".", ""}).text, "abc");
  EXPECT_EQ(answer({"c.da"}).text, "ab");  // from four tokens
  EXPECT_EQ(answer({"c.da"}).tokens, 6);
  EXPECT_EQ(answer({"x", "bc.dabc."}).text, "a");
  EXPECT_EQ(answer({"Q"}).text, "abc.dabc.dab");  // the question's letters are not the answer's
}

TEST(LlamaModel, ControlTokensEndTextsAndAreNotShown) {
  Fixture ends(false, parrot({{kA, kB}, {kB, kEos}, {kQ, kA}}));
  EXPECT_EQ(ends.generate({{.context = "Q", .until = {}, .max_tokens = 9}})[0].text, "ab");
  Fixture hidden(false, parrot({{kA, kB}, {kB, kBos}, {kBos, kC}, {kC, kC}, {kQ, kA}}));
  const auto answers = hidden.generate({{.context = "Q", .until = {}, .max_tokens = 4},
                                        {.context = "Q", .until = {"<s>"}, .max_tokens = 4},
                                        {.context = "Q", .until = {"b<s>c"}, .max_tokens = 4},
                                        {.context = "Q", .until = {"bc"}, .max_tokens = 4}});
  EXPECT_EQ(answers[0].text, "abc");
  EXPECT_EQ(answers[1].text, "ab");
  EXPECT_EQ(answers[2].text, "a");
  EXPECT_EQ(answers[3].text, "a");
}

TEST(LlamaModel, CharactersThatAreCutInTwo) {
  Fixture f(false, parrot({{kHigh, kLow}, {kLow, kHigh}, {kQ, kHigh}}));
  const auto answers = f.generate({{.context = "Q", .until = {}, .max_tokens = 4},
                                   {.context = "Q", .until = {}, .max_tokens = 3},
                                   {.context = "Q", .until = {"é"}, .max_tokens = 4}});
  EXPECT_EQ(answers[0].text, "éé");
  EXPECT_EQ(answers[1].text, "é\ufffd");
  EXPECT_EQ(answers[2].text, "");
}

TEST(LlamaModel, ManyQuestionsAtOnce) {
  Fixture f;
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < 30; i++)
    requests.push_back({.context = std::string(static_cast<size_t>(i % 13), 'c') + (i % 2 ? "Q: a" : "d"),
                        .until = {"."},
                        .max_tokens = 1 + i % 7});
  requests.push_back(requests[5]);
  const std::vector<GeneratedText> together = f.generate(requests);
  for (size_t i = 0; i < requests.size(); i++) {
    const GeneratedText alone = f.generate({requests[i]})[0];
    EXPECT_EQ(together[i].text, alone.text) << i;
    EXPECT_EQ(together[i].tokens, alone.tokens) << i;
  }
}

TEST(LlamaModel, LongQuestionsLeaveRoomForTheAnswer) {
  Fixture f(false, parrot({{kA, kB}, {kB, kA}, {kC, kA}}));
  const auto answers = f.generate({{.context = std::string(200, 'c'), .until = {}, .max_tokens = 10},
                                   {.context = "", .until = {}, .max_tokens = 1}});
  EXPECT_EQ(answers[0].text, "ababababab");
  EXPECT_EQ(answers[0].lost, 200 - (kContext - 10));
  EXPECT_EQ(answers[1].lost, 0);
  EXPECT_THROW(f.generate({{.context = "c", .until = {}, .max_tokens = kContext}}), Error);
}

}  // namespace
}  // namespace moerge
