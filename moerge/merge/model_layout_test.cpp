#include "moerge/merge/model_layout.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"

namespace moerge {
namespace {

std::vector<TensorSpec> specs(const std::vector<std::pair<std::string, Shape>>& tensors) {
  std::vector<TensorSpec> out;
  for (const auto& [name, shape] : tensors) out.push_back({name, DType::bf16, shape});
  return out;
}

const std::vector<TensorSpec> kLlama = specs({{"model.embed_tokens.weight", {32, 8}},
                                              {"model.layers.0.mlp.up_proj.weight", {16, 8}},
                                              {"model.layers.1.mlp.up_proj.weight", {16, 8}},
                                              {"model.layers.10.mlp.experts.3.w1.weight", {16, 8}},
                                              {"model.norm.weight", {8}},
                                              {"lm_head.weight", {32, 8}}});

std::vector<TensorSpec> llama() {  // with all its layers
  std::vector<TensorSpec> out = kLlama;
  for (int layer = 2; layer < 10; layer++)
    out.push_back({"model.layers." + std::to_string(layer) + ".mlp.up_proj.weight", DType::bf16, {16, 8}});
  return out;
}

std::string message(const Json& config, const std::vector<TensorSpec>& tensors) {
  try {
    ModelLayout(config, tensors, "org/model");
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

TEST(ModelLayout, OfAKnownFamily) {
  const ModelLayout layout({{"model_type", "llama"}, {"num_hidden_layers", 11}}, llama(), "org/model");
  EXPECT_TRUE(layout.is_known());
  EXPECT_EQ(layout.layers(), 11);
  EXPECT_EQ(layout.count_key(), "num_hidden_layers");
  EXPECT_EQ(layout.layer_of("model.layers.10.mlp.experts.3.w1.weight"), 10);
  EXPECT_EQ(layout.in_layer("model.layers.10.mlp.experts.3.w1.weight", 4),
            "model.layers.4.mlp.experts.3.w1.weight");
  for (const char* name :
       {"model.embed_tokens.weight", "model.norm.weight", "model.layers.x.weight", "lm_head.weight"})
    EXPECT_FALSE(layout.layer_of(name)) << name;
  EXPECT_TRUE(layout.comes_after("model.norm.weight"));
  EXPECT_TRUE(layout.comes_after("lm_head.weight"));
  EXPECT_FALSE(layout.comes_after("model.embed_tokens.weight"));
  EXPECT_TRUE(layout.is_by_token("model.embed_tokens.weight"));
  EXPECT_TRUE(layout.is_by_token("lm_head.weight"));
  EXPECT_FALSE(layout.is_by_token("model.norm.weight"));
}

TEST(ModelLayout, FoundOutFromTheNames) {
  const std::vector<TensorSpec> tensors = specs({{"backbone.embeddings.weight", {50, 8}},
                                                 {"backbone.layers.0.mixer.A_log", {16}},
                                                 {"backbone.layers.0.mixer.D", {16}},
                                                 {"backbone.layers.1.mixer.A_log", {16}},
                                                 {"backbone.layers.1.mixer.D", {16}},
                                                 {"other.0.weight", {4}},
                                                 {"backbone.norm_f.weight", {8}},
                                                 {"lm_head.weight", {50, 8}}});
  const ModelLayout layout({{"model_type", "mamba"}, {"n_layer", 2}, {"vocab_size", 50}}, tensors,
                           "org/model");
  EXPECT_FALSE(layout.is_known());
  EXPECT_EQ(layout.prefix(), "backbone.layers.");
  EXPECT_EQ(layout.layers(), 2);
  EXPECT_EQ(layout.count_key(), "n_layer");
  EXPECT_TRUE(layout.is_by_token("backbone.embeddings.weight"));
  EXPECT_TRUE(layout.is_by_token("lm_head.weight"));
  EXPECT_FALSE(layout.is_by_token("backbone.norm_f.weight"));
  EXPECT_TRUE(layout.comes_after("backbone.norm_f.weight"));
  EXPECT_FALSE(layout.comes_after("backbone.embeddings.weight"));
  EXPECT_FALSE(layout.layer_of("other.0.weight"));
}

// GPT-2 as it was saved without its head.
TEST(ModelLayout, OfAKnownFamilyUnderOtherNames) {
  const std::vector<TensorSpec> tensors = specs({{"wte.weight", {50, 8}},
                                                 {"wpe.weight", {16, 8}},
                                                 {"h.0.ln_1.weight", {8}},
                                                 {"h.1.ln_1.weight", {8}},
                                                 {"ln_f.weight", {8}}});
  const ModelLayout layout({{"model_type", "gpt2"}, {"n_layer", 2}, {"vocab_size", 50}}, tensors,
                           "org/model");
  EXPECT_FALSE(layout.is_known());
  EXPECT_EQ(layout.in_layer("h.1.ln_1.weight", 7), "h.7.ln_1.weight");
  EXPECT_TRUE(layout.comes_after("ln_f.weight"));
}

TEST(ModelLayout, SaysWhatDoesNotFit) {
  EXPECT_NE(message({{"model_type", "llama"}}, kLlama).find("org/model: layer 2 is missing"),
            std::string::npos);
  EXPECT_NE(message({{"model_type", "llama"}, {"num_hidden_layers", 12}}, llama())
                .find("\"num_hidden_layers\" of config.json is 12, but there are tensors of 11 layers"),
            std::string::npos);
  EXPECT_NE(message(Json::object(), specs({{"weight", {4}}})).find("no name of a tensor has a number"),
            std::string::npos);
  EXPECT_NE(message(Json::object(), specs({{"x.0.weight", {4}}})).find("does not say how many layers"),
            std::string::npos);
  EXPECT_NE(message({{"model_type", 5}}, {}).find("cannot be told"), std::string::npos);
  EXPECT_EQ(message({{"model_type", "llama"}}, llama()), "");
}

}  // namespace
}  // namespace moerge
