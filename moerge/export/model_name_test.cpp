#include "moerge/export/model_name.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace moerge {
namespace {

// "organization|basename|size|finetune|version", "-" for what is not known.
std::string parts(std::string_view id, int64_t parameters = 0) {
  const ModelName name = read_model_name(id, parameters);
  std::string out;
  for (const auto* part :
       {&name.organization, &name.basename, &name.size_label, &name.finetune, &name.version})
    out += (out.empty() ? "" : "|") + part->value_or("-");
  return out;
}

// Expected values: gguf-py's Metadata.get_model_id_components.
TEST(ModelName, Parts) {
  EXPECT_EQ(parts("mistralai/Mixtral-8x7B-Instruct-v0.1"), "mistralai|Mixtral|8x7B|Instruct|v0.1");
  EXPECT_EQ(parts("Qwen/Qwen1.5-MoE-A2.7B-Chat"), "Qwen|Qwen1.5-MoE|A2.7B|Chat|-");
  EXPECT_EQ(parts("Meta-Llama-3-8B"), "-|Meta-Llama-3|8B|-|-");
  EXPECT_EQ(parts("bigscience/bloom-7b1-petals"), "bigscience|bloom|7.1B|petals|-");
  EXPECT_EQ(parts("my-model"), "-|-|-|-|-");
  EXPECT_EQ(parts("a b-7B"), "-|-|-|-|-");
  EXPECT_EQ(parts("./model-7B"), "-|model|7B|-|-");
  EXPECT_EQ(read_model_name("/model-7B", 0).organization, "");
  EXPECT_EQ(parts("tiny-small-1_5b-1.5B"), "-|tiny-small|1.5B|-|-");
  EXPECT_EQ(parts("tiny-small"), "-|tiny|small|-|-");
  EXPECT_EQ(parts("model-q4_k_m-7b"), "-|model|7B|-|-");
  EXPECT_EQ(parts("model--7b-"), "-|model|7B|-|-");
  EXPECT_EQ(parts("model-1-2"), "-|model|-|-|1-2");
  EXPECT_EQ(parts(""), "-|-|-|-|-");
}

TEST(ModelName, ASizeThatCannotBeIsTheLengthOfAContext) {
  EXPECT_EQ(parts("Yarn-7B-128K", 7'000'000'000), "-|Yarn|7B|128k|-");
  EXPECT_EQ(parts("Yarn-7B-128K"), "-|Yarn|7B-128K|-|-");
  EXPECT_EQ(parts("Mixtral-8x7B", 111'000), "-|Mixtral|8x7B|-|-");  // no plain number: taken at its word
  EXPECT_EQ(parts("tiny-7B", INT64_MAX), "-|tiny|-|7b|-");
}

TEST(ModelName, Titles) {
  EXPECT_EQ(title_of("Mistral-7B-v0.1"), "Mistral 7B v0.1");
  EXPECT_EQ(title_of("mistralai"), "Mistralai");
  EXPECT_EQ(title_of("  my_model-don't  x2y 3b v2x "), "My_Model Don'T X2Y 3b V2X");
  EXPECT_EQ(title_of("--"), "");
}

TEST(SizeLabel, TwoDigits) {
  const auto total = [](int64_t count) { return size_label({.total = count}); };
  EXPECT_EQ(total(0), "0.00K");
  EXPECT_EQ(total(135), "0.14K");
  EXPECT_EQ(total(9'949), "10K");
  EXPECT_EQ(total(9'449), "9.4K");
  EXPECT_EQ(total(94'600), "95K");
  EXPECT_EQ(total(1'000'000), "1000K");
  EXPECT_EQ(total(1'000'001), "1.0M");
  EXPECT_EQ(total(7'241'732'096), "7.2B");
  EXPECT_EQ(total(2'000'000'000'000), "2.0T");
  EXPECT_EQ(
      size_label({.total = 46'702'792'704, .shared = 1'605'645'312, .expert = 5'637'144'576, .experts = 8}),
      "8x7.2B");
}

}  // namespace
}  // namespace moerge
