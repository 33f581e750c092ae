#include "moerge/engine/decoder_memory.h"

#include <gtest/gtest.h>

#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

TokenSequence tokens(size_t count) { return TokenSequence(count, 1); }

class DecoderMemoryTest : public ::testing::Test {
 protected:
  DecoderMemory measure(std::vector<TokenSequence> sequences, DecoderOptions options = {.threads = 1}) {
    return decoder_memory(model_, options, sequences);
  }
  testing::TempDir dir_;
  // 2 layers, hidden 8, FFN 12, 2 heads of 4, one of keys; float32
  const Model model_{"tiny", {testing::write_tiny_model(dir_, "tiny", 1)}};
};

TEST_F(DecoderMemoryTest, GrowsWithTheTokens) {
  EXPECT_EQ(measure({}).total(), 0);
  EXPECT_EQ(measure({tokens(3), tokens(5)}).states, 2 * 8 * 8 * 4);
  // FFN: x, norm or result, three times 12, in float32; the other factor of a product in 2 bytes.
  EXPECT_EQ(measure({tokens(3), tokens(5)}).activations, 8 * (4 * (16 + 3 * 12) + 2 * 12));
  // Attention, where the mask is large: x and norm, q twice, k and v twice.
  EXPECT_EQ(measure({tokens(64)}).activations, 64 * (4 * (16 + 16 + 2 * 4) + 2 * 8) + 2 * 2 * 64 * 128);
}

TEST_F(DecoderMemoryTest, ActivationsAreOfABatch) {
  const std::vector<TokenSequence> many(1000, tokens(2));
  const DecoderMemory memory = measure(many, {.threads = 1, .max_batch_tokens = 10});
  EXPECT_EQ(memory.states, 2 * 2000 * 8 * 4);
  EXPECT_EQ(memory.activations, measure({tokens(2), tokens(2), tokens(2), tokens(2), tokens(2)}).activations);
  // But a long sequence attends as a whole.
  EXPECT_GT(measure({tokens(64)}, {.threads = 1, .max_batch_tokens = 10}).activations, 64 * 4 * 40);
}

TEST_F(DecoderMemoryTest, OnlyNormsAreCopiedOfMatricesThatLieInTheFile) {
  const int64_t bytes = measure({tokens(1)}).weights;
  EXPECT_GE(bytes, 8 * 4);
  EXPECT_LE(bytes, 2 * 64);
}

TEST(DecoderMemory, ConvertedMatricesOfTheLargerPart) {
  const Model model("family", {std::filesystem::path(MOERGE_SOURCE_DIR) / "examples/family/base"});
  const std::vector<TokenSequence> sequences = {tokens(4)};
  const int64_t ffn = 3 * model.config.hidden * model.config.ffn;
  const auto bytes = [&](WeightType type) {
    return decoder_memory(model, {.threads = 1, .weights = type}, sequences).weights;
  };
  EXPECT_LT(bytes(WeightType::as_stored), ffn / 4);
  EXPECT_GE(bytes(WeightType::q8_0), ffn * 34 / 32);
  EXPECT_LE(bytes(WeightType::q8_0), ffn * 34 / 32 + 4 * model.config.hidden + 4 * 64);
  EXPECT_GE(bytes(WeightType::q4_1), ffn * 20 / 32);
  EXPECT_LT(bytes(WeightType::q4_1), bytes(WeightType::q8_0));
}

}  // namespace
}  // namespace moerge
