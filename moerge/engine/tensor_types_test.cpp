#include "moerge/engine/tensor_types.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "moerge/base/error.h"

namespace moerge {
namespace {

constexpr int kQ4KM = 15, kQ80 = 7, kIq2Xs = 20, kQ40 = 2;

GgufMetadata tiny_metadata(uint32_t experts) {
  GgufMetadata metadata;
  metadata.set("general.architecture", std::string("llama"));
  metadata.set("llama.block_count", uint32_t{8});
  metadata.set("llama.context_length", uint32_t{128});
  metadata.set("llama.embedding_length", uint32_t{256});
  metadata.set("llama.feed_forward_length", uint32_t{512});
  metadata.set("llama.attention.head_count", uint32_t{8});
  metadata.set("llama.attention.head_count_kv", uint32_t{2});
  metadata.set("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  if (experts > 0) {
    metadata.set("llama.expert_count", experts);
    metadata.set("llama.expert_used_count", uint32_t{2});
  }
  return metadata;
}

std::vector<TensorSpec> tiny_tensors(int64_t experts) {
  std::vector<TensorSpec> tensors = {{"output.weight", DType::bf16, {1000, 256}},
                                     {"output_norm.weight", DType::f32, {256}},
                                     {"token_embd.weight", DType::bf16, {1000, 256}}};
  for (int layer = 0; layer < 8; layer++) {
    const auto add = [&](const char* name, DType dtype, Shape shape) {
      tensors.push_back({fmt::format("blk.{}.{}.weight", layer, name), dtype, std::move(shape)});
    };
    add("attn_k", DType::bf16, {64, 256});
    add("attn_norm", DType::f32, {256});
    add("attn_v", DType::bf16, {64, 256});
    if (experts > 0) {
      add("ffn_down_exps", DType::bf16, {experts, 256, 512});
      add("ffn_gate_inp", DType::f32, {experts, 256});
    } else {
      add("ffn_down", DType::bf16, {256, 512});
    }
  }
  return tensors;
}

DType type_of(const std::vector<TensorSpec>& tensors, const QuantizeDecision& decision,
              const std::string& name) {
  for (size_t i = 0; i < tensors.size(); i++)
    if (tensors[i].name == name) return decision.types[i];
  throw std::logic_error(name);
}

TEST(TensorTypes, AreThoseOfTheMixture) {
  const std::vector<TensorSpec> tensors = tiny_tensors(0);
  const QuantizeDecision decision = decide_types(tiny_metadata(0), tensors, {.file_type = kQ4KM});
  EXPECT_EQ(type_of(tensors, decision, "output.weight"), DType::q6_k);
  EXPECT_EQ(type_of(tensors, decision, "token_embd.weight"), DType::q4_k);
  EXPECT_EQ(type_of(tensors, decision, "output_norm.weight"), DType::f32);
  EXPECT_EQ(type_of(tensors, decision, "blk.0.ffn_down.weight"),
            DType::q6_k);  // the first eighth gets more bits
  EXPECT_EQ(type_of(tensors, decision, "blk.2.ffn_down.weight"), DType::q4_k);
  EXPECT_FALSE(decision.needs_importance);
}

TEST(TensorTypes, KnowAboutExperts) {
  const std::vector<TensorSpec> tensors = tiny_tensors(8);
  const QuantizeDecision decision = decide_types(tiny_metadata(8), tensors, {.file_type = kQ4KM});
  EXPECT_EQ(type_of(tensors, decision, "blk.2.attn_k.weight"),
            DType::q8_0);  // eight experts: attention is cheap
  EXPECT_EQ(type_of(tensors, decision, "blk.2.ffn_gate_inp.weight"), DType::f32);
}

TEST(TensorTypes, FollowOverrides) {
  const std::vector<TensorSpec> tensors = tiny_tensors(0);
  const QuantizeDecision decision = decide_types(tiny_metadata(0), tensors,
                                                 {.file_type = kQ80,
                                                  .output_type = DType::f16,
                                                  .embedding_type = DType::q5_k,
                                                  .overrides = {{"ffn_down", DType::q3_k}}});
  EXPECT_EQ(type_of(tensors, decision, "output.weight"), DType::f16);
  EXPECT_EQ(type_of(tensors, decision, "token_embd.weight"), DType::q5_k);
  EXPECT_EQ(type_of(tensors, decision, "blk.5.ffn_down.weight"), DType::q3_k);
  EXPECT_EQ(type_of(tensors, decision, "blk.5.attn_k.weight"), DType::q8_0);
  EXPECT_THROW(
      decide_types(tiny_metadata(0), tensors, {.file_type = kQ80, .overrides = {{"(", DType::q3_k}}}), Error);
}

TEST(TensorTypes, DependOnAnImportanceMatrix) {
  const std::vector<TensorSpec> tensors = tiny_tensors(0);
  EXPECT_TRUE(decide_types(tiny_metadata(0), tensors, {.file_type = kIq2Xs}).needs_importance);
  EXPECT_FALSE(
      decide_types(tiny_metadata(0), tensors, {.file_type = kIq2Xs, .importance = true}).needs_importance);
  const auto plain = decide_types(tiny_metadata(0), tensors, {.file_type = kQ40});
  const auto weighed = decide_types(tiny_metadata(0), tensors, {.file_type = kQ40, .importance = true});
  EXPECT_EQ(type_of(tensors, plain, "blk.0.ffn_down.weight"), DType::q4_0);
  EXPECT_EQ(type_of(tensors, weighed, "blk.0.ffn_down.weight"), DType::q4_1);
}

TEST(TensorTypes, RowsThatDoNotFitGetSmallerBlocks) {
  std::vector<TensorSpec> tensors = tiny_tensors(0);
  for (TensorSpec& tensor : tensors)
    if (tensor.name == "blk.2.attn_k.weight") tensor.shape = {64, 96};
  for (TensorSpec& tensor : tensors)
    if (tensor.name == "blk.3.attn_k.weight") tensor.shape = {64, 40};
  const QuantizeDecision decision = decide_types(tiny_metadata(0), tensors, {.file_type = kQ4KM});
  EXPECT_EQ(type_of(tensors, decision, "blk.2.attn_k.weight"), DType::q5_0);
  EXPECT_EQ(type_of(tensors, decision, "blk.3.attn_k.weight"), DType::f16);
}

TEST(TensorTypes, PassOnWhyAModelIsRefused) {
  GgufMetadata metadata = tiny_metadata(0);
  metadata.set("general.architecture", std::string("no such thing"));
  try {
    decide_types(metadata, tiny_tensors(0), {.file_type = kQ80});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(error.message().find("no such thing"), std::string::npos) << error.message();
  }
}

}  // namespace
}  // namespace moerge
