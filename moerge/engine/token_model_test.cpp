// Compares with the streaming decoder, which shares no code with it but ggml.
#include "moerge/engine/token_model.h"

#include <ggml.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"
#include "moerge/engine/decoder.h"
#include "moerge/testing/tiny_gguf.h"

namespace moerge {
namespace {
namespace fs = std::filesystem;
using testing::TempDir;

// A mixture of 3 experts in 2 layers, 2 for each token; 260 tokens, bytes but for one pair.
const fs::path kMixture = fs::path(MOERGE_SOURCE_DIR) / "tests/engine/imatrix/model.gguf";
constexpr double kRounding = 2e-5;

TokenModelOptions options(const fs::path& file, std::vector<std::string> flags = {}) {
  flags.insert(flags.begin(), {"-t", "1"});
  return {.model = file, .llama_flags = std::move(flags)};
}

std::vector<TokenScore> score(TokenModel& model, const std::vector<TokenQuery>& queries) {
  std::vector<TokenScore> scores(queries.size());
  std::vector<int> told(queries.size());
  model.score(queries, [&](size_t i, const TokenScore& found) {
    scores.at(i) = found;
    told.at(i)++;
  });
  EXPECT_EQ(told, std::vector<int>(queries.size(), 1));
  return scores;
}

// Three items with examples in front, four choices each; some are equal, some are the beginning of others.
std::vector<TokenQuery> some_queries() {
  std::vector<TokenQuery> queries;
  for (int32_t examples = 0; examples < 3; examples++)
    for (int32_t item = 0; item < 3; item++)
      for (int32_t choice = 0; choice < 4; choice++) {
        TokenQuery query;
        for (int32_t i = 0; i < 30 + 5 * examples; i++) query.tokens.push_back((i * 7 + examples) % 250);
        for (int32_t i = 0; i < 8 + item; i++) query.tokens.push_back((i * 11 + item * 3) % 250);
        query.first = query.tokens.size();
        for (int32_t i = 0; i <= choice + item; i++) query.tokens.push_back((i * 5 + item) % 250);
        queries.push_back(query);
      }
  queries.push_back(queries.front());
  queries.push_back({{9, 8}, 1});
  return queries;
}

TEST(TokenModel, LikelihoodsAreThoseOfTheStreamingDecoder) {
  const std::vector<TokenQuery> queries = some_queries();
  std::vector<TokenSequence> sequences;
  for (const TokenQuery& query : queries) sequences.push_back(query.tokens);
  const Model model("m", {kMixture});
  const std::vector<float> expected = StreamingDecoder(model, {.threads = 1}).log_probabilities(sequences);
  TokenModel scorer(options(kMixture));
  const std::vector<TokenScore> found = score(scorer, queries);
  size_t at = 0;
  for (size_t i = 0; i < queries.size(); i++) {
    const size_t steps = queries[i].tokens.size() - 1;
    const auto end = expected.begin() + static_cast<ptrdiff_t>(at + steps);
    EXPECT_NEAR(
        found[i].value,
        std::accumulate(expected.begin() + static_cast<ptrdiff_t>(at + queries[i].first - 1), end, 0.0), 1e-3)
        << i;
    at += steps;
  }
}

TEST(TokenModel, GroupingDoesNotChangeResults) {
  const std::vector<TokenQuery> queries = some_queries();
  TokenModel one_by_one(options(kMixture));
  std::vector<TokenScore> expected;
  for (const TokenQuery& query : queries) expected.push_back(score(one_by_one, {query})[0]);
  // Batches much smaller than a text, and wide ones.
  for (const char* batch : {"16", "64", "512"}) {
    TokenModel together(options(kMixture, {"-ub", batch}));
    const std::vector<TokenScore> found = score(together, queries);
    for (size_t i = 0; i < queries.size(); i++) {
      EXPECT_NEAR(found[i].value, expected[i].value, kRounding) << batch << " " << i;
      EXPECT_EQ(found[i].greedy, expected[i].greedy) << batch << " " << i;
    }
    EXPECT_LT(together.computed_tokens() * 3, one_by_one.computed_tokens()) << batch;
    const std::vector<TokenScore> again = score(together, queries);  // the memory is in use already
    for (size_t i = 0; i < queries.size(); i++) EXPECT_NEAR(again[i].value, expected[i].value, kRounding);
  }
}

TEST(TokenModel, FlashAttentionDoesNotChangeResults) {
  const std::vector<TokenQuery> queries = some_queries();
  TokenModel plain(options(kMixture, {"-fa", "off"}));
  const std::vector<TokenScore> expected = score(plain, queries);
  for (const char* flash : {"auto", "on"}) {
    TokenModel model(options(kMixture, {"-fa", flash}));
    const std::vector<TokenScore> found = score(model, queries);
    for (size_t i = 0; i < queries.size(); i++)
      EXPECT_NEAR(found[i].value, expected[i].value, kRounding) << i;
  }
}

// A tiny model whose matrices hold float16 values, as such or in float32.
fs::path write_tiny(const TempDir& dir, const char* name, DType type) {
  std::vector<testing::TinyGgufTensor> tensors = testing::tiny_gguf_tensors(1);
  for (testing::TinyGgufTensor& tensor : tensors) {
    if (tensor.spec.shape.size() < 2) continue;
    std::vector<float> values(tensor.bytes.size() / sizeof(float));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    std::vector<ggml_fp16_t> rounded(values.size());
    ggml_fp32_to_fp16_row(values.data(), rounded.data(), std::ssize(values));
    ggml_fp16_to_fp32_row(rounded.data(), values.data(), std::ssize(values));
    tensor.spec.dtype = type;
    if (type == DType::f16)
      tensor.bytes.assign(reinterpret_cast<const char*>(rounded.data()), rounded.size() * sizeof rounded[0]);
    else
      tensor.bytes.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof values[0]);
  }
  return dir.write(name, testing::gguf_bytes(testing::tiny_gguf_metadata(), tensors));
}

TEST(TokenModel, Float16WeightsDoNotRoundActivations) {
  const TempDir dir;
  std::vector<TokenQuery> queries;
  for (int32_t i = 0; i < 5; i++) queries.push_back({{1, i, 3, 2 * i, 5, 7, i + 1}, 1});
  TokenModel wide(options(write_tiny(dir, "f32.gguf", DType::f32)));
  const std::vector<TokenScore> expected = score(wide, queries);
  TokenModel narrow(options(write_tiny(dir, "f16.gguf", DType::f16)));
  const std::vector<TokenScore> found = score(narrow, queries);
  for (size_t i = 0; i < queries.size(); i++) EXPECT_EQ(found[i].value, expected[i].value) << i;
}

TEST(TokenModel, ReadsFewLogitsAtOnce) {
  const std::vector<TokenQuery> long_one = {{TokenSequence(150, 3), 1}};
  TokenModelOptions few = options(kMixture);
  few.context = 200;  // more than it was trained with
  TokenModel model(few);
  const double expected = score(model, long_one)[0].value;
  few.logits_bytes = 1;  // the least: 64 tokens
  TokenModel frugal(few);
  EXPECT_NEAR(score(frugal, long_one)[0].value, expected, kRounding);
}

TEST(TokenModel, CountsTheExpertsOfEachLayer) {
  TokenModelOptions counting = options(kMixture);
  counting.count_experts = true;
  TokenModel model(counting);
  score(model, {{TokenSequence{5, 6, 7, 8, 9, 10}, 1}});
  const std::vector<ExpertLoad> loads = model.expert_loads();
  ASSERT_FALSE(loads.empty());
  for (const ExpertLoad& load : loads) {
    EXPECT_EQ(load.tokens.size(), 3u);
    EXPECT_EQ(std::accumulate(load.tokens.begin(), load.tokens.end(), int64_t{0}), 2 * 5);
  }
  EXPECT_TRUE(TokenModel(options(kMixture)).expert_loads().empty());
}

TEST(TokenModel, WritesTheMostLikelyTokens) {
  std::vector<TokenPrompt> prompts;
  for (int32_t i = 0; i < 20; i++) {  // more than are written at once
    TokenPrompt prompt{TokenSequence(static_cast<size_t>(3 + i % 4), 40 + i % 2), i % 5};
    prompt.tokens.push_back(60 + i);
    prompts.push_back(prompt);
  }
  prompts.push_back(prompts[3]);
  TokenModel model(options(kMixture, {"-ub", "16"}));
  std::vector<TokenSequence> written(prompts.size());
  model.generate(prompts, [&](size_t i, int32_t token) {
    written[i].push_back(token);
    return i != 4 || written[i].size() < 2;
  });
  std::vector<TokenQuery> queries;
  for (size_t i = 0; i < prompts.size(); i++) {
    EXPECT_EQ(std::ssize(written[i]), i == 4 ? 2 : prompts[i].max_tokens);
    if (written[i].empty()) continue;
    queries.push_back({prompts[i].tokens, prompts[i].tokens.size()});
    queries.back().tokens.insert(queries.back().tokens.end(), written[i].begin(), written[i].end());
  }
  for (const TokenScore& found : score(model, queries)) EXPECT_TRUE(found.greedy);
  EXPECT_EQ(written[3], written.back());
}

std::string refusal(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(TokenModel, RefusesWhatDoesNotFit) {
  TokenModelOptions small = options(kMixture);
  small.context = 8;
  TokenModel model(small);
  EXPECT_EQ(model.context(), 8);
  EXPECT_EQ(score(model, {{TokenSequence(9, 1), 1}}).size(), 1u);
  const auto scored = [&](const TokenQuery& query) { return refusal([&] { score(model, {query}); }); };
  EXPECT_NE(scored({TokenSequence(10, 1), 1}).find("a text of 9 tokens, the context has 8"),
            std::string::npos);
  EXPECT_NE(scored({TokenSequence(3, 1), 3}).find("needs a token before it"), std::string::npos);
  EXPECT_NE(scored({TokenSequence(3, 1), 0}).find("needs a token before it"), std::string::npos);
  EXPECT_NE(scored({{1, 100000}, 1}).find("token 100000 is not in the vocabulary"), std::string::npos);
  const std::vector<TokenPrompt> prompt = {{TokenSequence(5, 1), 4}};
  EXPECT_NE(refusal([&] { model.generate(prompt, {}); }).find("9 tokens, the context has 8"),
            std::string::npos);
  EXPECT_NE(refusal([] { TokenModel(options(kMixture, {"--no-such-flag"})); }), "");
  EXPECT_NE(refusal([] { TokenModel(options(kMixture.parent_path() / "text.txt")); }).find("text.txt"),
            std::string::npos);
}

TEST(TokenModel, LogitsThatAreNotFinite) {
  const TempDir dir;
  std::vector<testing::TinyGgufTensor> tensors = testing::tiny_gguf_tensors(1);
  for (testing::TinyGgufTensor& tensor : tensors)
    if (tensor.spec.name == "output_norm.weight") {
      const float bad = std::numeric_limits<float>::quiet_NaN();
      tensor.bytes.replace(0, sizeof bad, reinterpret_cast<const char*>(&bad), sizeof bad);
    }
  const auto file = dir.write("m.gguf", testing::gguf_bytes(testing::tiny_gguf_metadata(), tensors));
  TokenModel model(options(file));
  EXPECT_NE(refusal([&] {
              score(model, {{{1, 2, 3}, 1}});
            }).find("the model's logits are not finite"),
            std::string::npos);
  const std::vector<TokenPrompt> prompts = {{{1, 2}, 3}};
  EXPECT_NE(refusal([&] {
              model.generate(prompts, [](size_t, int32_t) { return true; });
            }).find("the model's logits are not finite"),
            std::string::npos);
}

TEST(TokenModelDeathTest, EndsAfterAnInterrupt) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run = [] {
    install_interrupt_handler();
    TokenModel model(options(kMixture, {"-ub", "16"}));
    size_t told = 0;
    try {
      model.score(some_queries(), [&](size_t, const TokenScore&) {
        if (told++ == 0) raise(SIGINT);
      });
    } catch (const Error& error) {
      _exit(error.kind() == ErrorKind::interrupted && told < some_queries().size() ? 42 : 1);
    }
    _exit(2);
  };
  EXPECT_EXIT(run(), ::testing::ExitedWithCode(42), "");
}

}  // namespace
}  // namespace moerge
