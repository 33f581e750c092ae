#include "moerge/engine/llama_memory.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"

namespace moerge {
namespace {

constexpr int64_t kVocab = 1000, kHidden = 256, kFfn = 512, kLayers = 3, kHeads = 8, kKvHeads = 2;

GgufMetadata metadata() {
  GgufMetadata out;
  out.set("general.architecture", std::string("llama"));
  out.set("llama.block_count", static_cast<uint32_t>(kLayers));
  out.set("llama.context_length", uint32_t{128});
  out.set("llama.vocab_size", static_cast<uint32_t>(kVocab));
  out.set("llama.embedding_length", static_cast<uint32_t>(kHidden));
  out.set("llama.feed_forward_length", static_cast<uint32_t>(kFfn));
  out.set("llama.attention.head_count", static_cast<uint32_t>(kHeads));
  out.set("llama.attention.head_count_kv", static_cast<uint32_t>(kKvHeads));
  out.set("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  out.set("tokenizer.ggml.model", std::string("none"));
  return out;
}

std::vector<TensorSpec> tensors(DType dtype = DType::bf16) {
  std::vector<TensorSpec> out = {{"output.weight", dtype, {kVocab, kHidden}},
                                 {"output_norm.weight", DType::f32, {kHidden}},
                                 {"token_embd.weight", dtype, {kVocab, kHidden}}};
  const int64_t keys = kHidden / kHeads * kKvHeads;
  for (int layer = 0; layer < kLayers; layer++) {
    const auto add = [&](const char* name, DType type, Shape shape) {
      out.push_back({fmt::format("blk.{}.{}.weight", layer, name), type, std::move(shape)});
    };
    for (const char* name : {"attn_norm", "ffn_norm"}) add(name, DType::f32, {kHidden});
    for (const char* name : {"attn_q", "attn_output"}) add(name, dtype, {kHidden, kHidden});
    for (const char* name : {"attn_k", "attn_v"}) add(name, dtype, {keys, kHidden});
    for (const char* name : {"ffn_gate", "ffn_up"}) add(name, dtype, {kFfn, kHidden});
    add("ffn_down", dtype, {kHidden, kFfn});
  }
  return out;
}

TEST(LlamaMemory, CacheOfEachContext) {
  const std::vector<int64_t> contexts = {4096, 32768};
  const std::vector<LlamaMemory> memory = llama_memory(metadata(), tensors(), contexts);
  ASSERT_EQ(memory.size(), 2u);
  for (size_t i = 0; i < 2; i++) {
    EXPECT_EQ(memory[i].cache, 2 * kLayers * kKvHeads * (kHidden / kHeads) * contexts[i] * 2);
    EXPECT_GT(memory[i].compute, 512 * kFfn * 4);
  }
  EXPECT_GT(memory[1].compute, memory[0].compute);  // masks grow with the context
}

TEST(LlamaMemory, TypesOfTheWeightsDoNotMatter) {
  const std::vector<int64_t> contexts = {4096};
  EXPECT_EQ(llama_memory(metadata(), tensors(), contexts)[0].compute,
            llama_memory(metadata(), tensors(DType::q4_k), contexts)[0].compute);
}

TEST(LlamaMemory, HowTheContextIsUsed) {
  LlamaMeter meter(metadata(), tensors());
  const LlamaMemory one = meter.at(4096, {});
  const LlamaMemory shared = meter.at(4096, {.sequences = 4, .unified = true, .outputs = 4});
  EXPECT_EQ(shared.cache, one.cache);
  EXPECT_LT(shared.compute, one.compute);  // logits of 4 tokens, not of 512
  constexpr int kFloat32 = 0;              // GGML_TYPE_F32
  EXPECT_EQ(meter.at(4096, {.key_type = kFloat32, .value_type = kFloat32}).cache, 2 * one.cache);
}

TEST(LlamaMemory, RefusalsAreLlamasOwnWords) {
  std::vector<TensorSpec> incomplete = tensors();
  incomplete.pop_back();
  const std::vector<int64_t> contexts = {4096};
  try {
    llama_memory(metadata(), incomplete, contexts);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    EXPECT_NE(error.message().find("llama.cpp does not accept this model"), std::string::npos);
    EXPECT_NE(error.message().find("blk.2.ffn_down.weight"), std::string::npos) << error.message();
  }
}

}  // namespace
}  // namespace moerge
