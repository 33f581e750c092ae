#include "moerge/export/expected_tensors.h"

#include <gtest/gtest.h>

#include <map>

#include "moerge/base/error.h"

namespace moerge {
namespace {

std::map<std::string, ExpectedTensor> expected(const std::string& text) {
  const Json config = Json::parse(text);
  const ExportFamily& family = *choose_export_family(config, "config.json");
  std::map<std::string, ExpectedTensor> out;
  for (const ExpectedTensor& tensor :
       expected_tensors(family, export_dimensions(family, config, "config.json")))
    EXPECT_TRUE(out.emplace(tensor.name, tensor).second) << tensor.name;
  return out;
}

std::string message_of(const std::string& text) {
  try {
    expected(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::vector<std::string> warnings_of(const std::string& text) {
  const Json config = Json::parse(text);
  return export_warnings(*choose_export_family(config, "config.json"), config, "config.json");
}

constexpr const char* kSizes =
    R"("hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 99,
       "intermediate_size": 128, "num_experts_per_tok": 2)";

std::string config_of(const char* model_type, const std::string& more = "") {
  return std::string(R"({"model_type": ")") + model_type + "\", " + kSizes + (more.empty() ? "" : ", ") +
         more + "}";
}

TEST(ExpectedTensors, Dense) {
  auto tensors = expected(config_of("llama", R"("head_dim": 32)"));
  EXPECT_EQ(tensors["token_embd.weight"].shape, (Shape{99, 64}));
  EXPECT_EQ(tensors["blk.1.attn_q.weight"].shape, (Shape{128, 64}));
  EXPECT_EQ(tensors["blk.1.attn_k.weight"].shape, (Shape{64, 64}));
  EXPECT_EQ(tensors["blk.1.attn_output.weight"].shape, (Shape{64, 128}));
  EXPECT_EQ(tensors["blk.0.ffn_down.weight"].shape, (Shape{64, 128}));
  EXPECT_EQ(tensors["blk.0.attn_k.bias"].shape, (Shape{64}));
  EXPECT_TRUE(tensors["blk.0.attn_k.bias"].optional);
  EXPECT_TRUE(tensors["blk.0.attn_output.bias"].optional);
  EXPECT_FALSE(tensors["output.weight"].optional);
  EXPECT_FALSE(tensors.contains("blk.0.ffn_gate_inp.weight"));
  EXPECT_TRUE(expected(config_of("llama", R"("tie_word_embeddings": true)"))["output.weight"].optional);
}

TEST(ExpectedTensors, HeadNormsOfQwen3HaveTheClassDefault) {
  auto tensors = expected(config_of("qwen3"));
  EXPECT_EQ(tensors["blk.0.attn_q_norm.weight"].shape, (Shape{128}));
  EXPECT_EQ(tensors["blk.0.attn_q.weight"].shape, (Shape{512, 64}));
  EXPECT_FALSE(tensors.contains("blk.0.attn_output.bias"));
}

TEST(ExpectedTensors, Mixtures) {
  auto mixtral = expected(config_of("mixtral", R"("num_local_experts": 3)"));
  EXPECT_EQ(mixtral["blk.0.ffn_gate_inp.weight"].shape, (Shape{3, 64}));
  EXPECT_EQ(mixtral["blk.0.ffn_up_exps.weight"].shape, (Shape{3, 128, 64}));
  EXPECT_EQ(mixtral["blk.0.ffn_down_exps.weight"].shape, (Shape{3, 64, 128}));
  EXPECT_FALSE(mixtral.contains("blk.0.ffn_up.weight"));

  auto qwen = expected(config_of("qwen2_moe", R"("num_experts": 3, "moe_intermediate_size": 48,
                                                 "shared_expert_intermediate_size": 80, "tie_word_embeddings": true)"));
  EXPECT_EQ(qwen["blk.1.ffn_down_exps.weight"].shape, (Shape{3, 64, 48}));
  EXPECT_EQ(qwen["blk.1.ffn_down_shexp.weight"].shape, (Shape{64, 80}));
  EXPECT_EQ(qwen["blk.1.ffn_gate_inp_shexp.weight"].shape, (Shape{1, 64}));
  EXPECT_FALSE(qwen["output.weight"].optional);  // llama.cpp's qwen2moe wants it even when tied
}

constexpr const char* kDeepseek =
    R"("n_routed_experts": 3, "n_shared_experts": 2, "moe_intermediate_size": 48, "first_k_dense_replace": 1)";

TEST(ExpectedTensors, DeepseekIsDenseInFront) {
  auto tensors = expected(config_of("deepseek", kDeepseek));
  EXPECT_EQ(tensors["blk.0.ffn_up.weight"].shape, (Shape{128, 64}));
  EXPECT_FALSE(tensors.contains("blk.0.ffn_up_exps.weight"));
  EXPECT_FALSE(tensors.contains("blk.1.ffn_up.weight"));
  EXPECT_EQ(tensors["blk.1.ffn_up_exps.weight"].shape, (Shape{3, 48, 64}));
  EXPECT_EQ(tensors["blk.1.ffn_up_shexp.weight"].shape, (Shape{96, 64}));
}

TEST(ExpectedTensors, RefusesDenseLayersBetweenSparseOnes) {
  for (const char* model_type : {"qwen2_moe", "qwen3_moe"}) {
    EXPECT_NE(
        message_of(config_of(model_type, R"("decoder_sparse_step": 2)")).find("some layers have no experts"),
        std::string::npos);
    EXPECT_NE(
        message_of(config_of(model_type, R"("mlp_only_layers": [0])")).find("names layers without experts"),
        std::string::npos);
    EXPECT_EQ(message_of(config_of(model_type, R"("mlp_only_layers": [], "decoder_sparse_step": 1)")), "");
  }
  EXPECT_NE(message_of(config_of("deepseek", std::string(kDeepseek) + R"(, "moe_layer_freq": 2)"))
                .find("\"moe_layer_freq\" is 2"),
            std::string::npos);
}

TEST(ExpectedTensors, HostileSizes) {
  for (const auto& [member, why] : std::vector<std::pair<std::string, std::string>>{
           {R"("num_hidden_layers": 100001)", "expected at most 100000"},
           {R"("num_hidden_layers": 0)", "\"num_hidden_layers\" is 0"},
           {R"("num_key_value_heads": 3)", "no multiple of num_key_value_heads 3"},
           {R"("head_dim": 1073741824)", "is too large"},
           {R"("head_dim": 3)", "cannot be rotated in pairs"},
           {R"("vocab_size": -5)", "\"vocab_size\" is -5"},
           {R"("hidden_size": 3)", "is smaller than num_attention_heads"}}) {
    Json config = Json::parse(config_of("llama"));
    config.merge_patch(Json::parse("{" + member + "}"));
    EXPECT_NE(message_of(config.dump()).find(why), std::string::npos) << message_of(config.dump());
  }
  EXPECT_NE(message_of(config_of("deepseek", R"("n_routed_experts": 3, "n_shared_experts": 1073741824,
                                                "moe_intermediate_size": 48, "first_k_dense_replace": 1)"))
                .find("\"n_shared_experts\" times"),
            std::string::npos);
}

TEST(ExportWarnings, WhatLlamaCppDoesNotFollow) {
  EXPECT_TRUE(warnings_of(config_of("llama")).empty());
  for (const auto& [config, why] : std::vector<std::pair<std::string, std::string>>{
           {config_of("llama", R"("hidden_act": "gelu")"), "always computes silu"},
           {config_of("llama", R"("partial_rotary_factor": 0.5)"), "\"partial_rotary_factor\" is not 1"},
           {config_of("llama", R"("rope_scaling": {"type": "dynamic", "factor": 2.0})"),
            "of type \"dynamic\""},
           {config_of("qwen3_moe", R"("num_experts": 4)"), "\"norm_topk_prob\" is false"},
           {config_of("qwen2_moe", R"("norm_topk_prob": true)"), "\"norm_topk_prob\" is true"},
           {config_of("deepseek",
                      std::string(kDeepseek) + R"(, "rope_scaling": {"type": "linear", "factor": 2.0})"),
            "of type \"linear\""}}) {
    const std::vector<std::string> warnings = warnings_of(config);
    ASSERT_EQ(warnings.size(), 1) << config;
    EXPECT_NE(warnings[0].find(why), std::string::npos) << warnings[0];
  }
}

// With all experts in use, or a single one of DeepSeek's, normalised weights are the others.
TEST(ExportWarnings, NoneWhereNormalisedWeightsAreTheOthers) {
  const std::string all = R"(, "num_experts_per_tok": 4)", one = R"(, "num_experts_per_tok": 1)";
  EXPECT_TRUE(
      warnings_of(config_of("qwen2_moe", R"("num_experts": 4, "norm_topk_prob": true)" + all)).empty());
  EXPECT_TRUE(warnings_of(config_of("deepseek", kDeepseek + (R"(, "norm_topk_prob": true)" + one))).empty());
}

// llama.cpp's granitemoe normalises, and has no dense layers.
TEST(ChooseExportFamily, NormalisedDeepseekIsGranite) {
  const std::string sizes = R"("n_routed_experts": 3, "n_shared_experts": 1, "moe_intermediate_size": 48)";
  const auto arch = [](const std::string& config) {
    return choose_export_family(Json::parse(config), "config.json")->arch;
  };
  EXPECT_EQ(arch(config_of("deepseek", sizes + R"(, "norm_topk_prob": true)")), "granitemoe");
  EXPECT_EQ(arch(config_of("deepseek", sizes + R"(, "norm_topk_prob": false)")), "deepseek");
  EXPECT_EQ(arch(config_of("deepseek", sizes)), "deepseek");
  EXPECT_EQ(arch(config_of("deepseek", sizes + R"(, "norm_topk_prob": true, "num_experts_per_tok": 1)")),
            "deepseek");
  EXPECT_EQ(arch(config_of("deepseek", sizes + R"(, "norm_topk_prob": true, "first_k_dense_replace": 1)")),
            "deepseek");
  EXPECT_EQ(arch(config_of("qwen2_moe", R"("num_experts": 4)")), "qwen2moe");
  EXPECT_EQ(choose_export_family(Json::parse(R"({"model_type": "gpt2"})"), "config.json"), nullptr);

  const auto tensors = expected(config_of("deepseek", sizes + R"(, "norm_topk_prob": true)"));
  EXPECT_EQ(tensors.at("blk.1.ffn_down_shexp.weight").shape, (Shape{64, 48}));
  EXPECT_TRUE(tensors.at("blk.0.attn_output.bias").optional);
  const auto none = expected(config_of("deepseek", R"("n_routed_experts": 3, "n_shared_experts": null,
      "moe_intermediate_size": 48, "norm_topk_prob": true)"));
  EXPECT_FALSE(none.contains("blk.1.ffn_down_shexp.weight"));
  EXPECT_TRUE(none.contains("blk.1.ffn_down_exps.weight"));
}

TEST(ExpectedTensors, DeepseekOfLlamaCppNeedsASharedExpert) {
  for (const char* none : {"0", "null"})
    EXPECT_NE(message_of(config_of("deepseek", fmt::format(R"("n_routed_experts": 3, "n_shared_experts": {},
        "moe_intermediate_size": 48)",
                                                           none)))
                  .find("cannot do without a shared expert"),
              std::string::npos);
}

TEST(ExportWarnings, RefuseWhatLlamaCppWouldNotLoad) {
  EXPECT_THROW(warnings_of(config_of("qwen2", R"("head_dim": 32)")), Error);
  EXPECT_THROW(warnings_of(config_of("mixtral", R"("num_local_experts": 1)")), Error);
}

}  // namespace
}  // namespace moerge
