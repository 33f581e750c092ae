#include "moerge/export/hyperparameters.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <map>

#include "moerge/base/error.h"

namespace moerge {
namespace {

const ExportFamily& family_of(const Json& config) { return *choose_export_family(config, "config.json"); }

// Keys without their architecture, values with their type; floats by their bits, which is what must be equal.
std::map<std::string, std::string> keys_of(const std::string& text) {
  const Json config = Json::parse(text);
  const ExportFamily& family = family_of(config);
  GgufMetadata metadata;
  add_hyperparameters(metadata, family, config, "config.json");
  std::map<std::string, std::string> out;
  for (const auto& [key, value] : metadata.entries()) {
    EXPECT_TRUE(key.starts_with(std::string(family.arch) + ".")) << key;
    std::string& shown = out[key.substr(family.arch.size() + 1)];
    if (const auto* count = std::get_if<uint32_t>(&value)) shown = fmt::format("u32 {}", *count);
    if (const auto* number = std::get_if<float>(&value))
      shown = fmt::format("f32 {:08x}", std::bit_cast<uint32_t>(*number));
    if (const auto* name = std::get_if<std::string>(&value)) shown = "str " + *name;
    if (const auto* flag = std::get_if<bool>(&value)) shown = fmt::format("bool {}", *flag);
    EXPECT_FALSE(shown.empty()) << key;
  }
  return out;
}

std::string message_of(const std::string& text) {
  try {
    keys_of(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::vector<uint32_t> factor_bits(const std::string& text) {
  const Json config = Json::parse(text);
  std::vector<uint32_t> out;
  for (const float factor : rope_frequency_factors(family_of(config), config, "config.json"))
    out.push_back(std::bit_cast<uint32_t>(factor));
  return out;
}

using Expected = std::map<std::string, std::string>;

// What conversion/base.py and its subclasses add for a config.json that holds nothing but the model's type.
TEST(Hyperparameters, ClassDefaults) {
  const auto common = [](int layers, int context, int hidden, int ffn, int heads, int kv_heads) {
    return Expected{{"block_count", fmt::format("u32 {}", layers)},
                    {"context_length", fmt::format("u32 {}", context)},
                    {"embedding_length", fmt::format("u32 {}", hidden)},
                    {"feed_forward_length", fmt::format("u32 {}", ffn)},
                    {"attention.head_count", fmt::format("u32 {}", heads)},
                    {"attention.head_count_kv", fmt::format("u32 {}", kv_heads)},
                    {"attention.layer_norm_rms_epsilon", "f32 358637bd"},
                    {"rope.freq_base", "f32 461c4000"}};
  };
  const auto with = [](Expected keys, const Expected& more) {
    for (const auto& [key, value] : more) keys[key] = value;
    return keys;
  };
  const Expected heads = {{"attention.key_length", "u32 128"}, {"attention.value_length", "u32 128"}},
                 llama = {{"vocab_size", "u32 32000"}, {"rope.dimension_count", "u32 128"}};
  EXPECT_EQ(keys_of(R"({"model_type": "llama"})"),
            with(with(common(32, 2048, 4096, 11008, 32, 32), heads), llama));
  EXPECT_EQ(keys_of(R"({"model_type": "mistral"})"),
            with(with(common(32, 131072, 4096, 14336, 32, 8), heads), llama));
  EXPECT_EQ(keys_of(R"({"model_type": "mixtral"})"),
            with(with(common(32, 131072, 4096, 14336, 32, 8), llama),
                 {{"rope.freq_base", "f32 49742400"},
                  {"attention.layer_norm_rms_epsilon", "f32 3727c5ac"},
                  {"expert_count", "u32 8"},
                  {"expert_used_count", "u32 2"}}));
  EXPECT_EQ(keys_of(R"({"model_type": "qwen2"})"), common(32, 32768, 4096, 22016, 32, 32));
  EXPECT_EQ(keys_of(R"({"model_type": "qwen3"})"), with(common(32, 32768, 4096, 22016, 32, 32), heads));
  EXPECT_EQ(keys_of(R"({"model_type": "qwen2_moe"})"),
            with(common(24, 32768, 2048, 5632, 16, 16), {{"expert_count", "u32 60"},
                                                         {"expert_used_count", "u32 4"},
                                                         {"expert_feed_forward_length", "u32 1408"},
                                                         {"expert_shared_feed_forward_length", "u32 5632"}}));
  EXPECT_EQ(keys_of(R"({"model_type": "qwen3_moe"})"),
            with(common(24, 32768, 2048, 6144, 32, 4), {{"expert_count", "u32 128"},
                                                        {"expert_used_count", "u32 8"},
                                                        {"expert_feed_forward_length", "u32 768"}}));
}

constexpr const char* kDeepseekConfig =
    R"({"model_type": "deepseek", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 99,
        "intermediate_size": 128, "n_routed_experts": 4, "n_shared_experts": 2, "first_k_dense_replace": 1,
        "moe_intermediate_size": 32, "num_experts_per_tok": 2, "scoring_func": "softmax",
        "rope_scaling": {"type": "linear", "factor": 4.0}})";

TEST(Hyperparameters, DeepseekHasNoClassAndSoNoDefaults) {
  EXPECT_EQ(keys_of(kDeepseekConfig), (Expected{{"block_count", "u32 2"},
                                                {"embedding_length", "u32 64"},
                                                {"feed_forward_length", "u32 128"},
                                                {"attention.head_count", "u32 4"},
                                                {"rope.scaling.type", "str none"},
                                                {"rope.scaling.factor", "f32 40800000"},
                                                {"expert_count", "u32 4"},
                                                {"expert_used_count", "u32 2"},
                                                {"expert_gating_func", "u32 1"},
                                                {"rope.dimension_count", "u32 16"},
                                                {"leading_dense_block_count", "u32 1"},
                                                {"vocab_size", "u32 99"},
                                                {"expert_feed_forward_length", "u32 32"},
                                                {"expert_weights_scale", "f32 3f800000"},
                                                {"expert_shared_count", "u32 2"}}));
  Json config = Json::parse(kDeepseekConfig);
  for (const char* key :
       {"n_shared_experts", "first_k_dense_replace", "moe_intermediate_size", "vocab_size"}) {
    Json less = config;
    less.erase(key);
    EXPECT_NE(message_of(less.dump()).find(fmt::format("\"{}\" is missing", key)), std::string::npos);
  }
}

// As granitemoe, whose experts have the size that "feed_forward_length" says.
TEST(Hyperparameters, DeepseekWithNormalisedWeights) {
  Json config = Json::parse(kDeepseekConfig);
  config["norm_topk_prob"] = true;
  config["first_k_dense_replace"] = 0;
  const Expected found = keys_of(config.dump());
  for (const auto& [key, value] : Expected{{"feed_forward_length", "u32 32"},
                                           {"expert_shared_feed_forward_length", "u32 64"},
                                           {"expert_count", "u32 4"},
                                           {"rope.scaling.type", "str linear"},
                                           {"rope.dimension_count", "u32 16"},
                                           {"logit_scale", "f32 3f800000"}})
    EXPECT_EQ(found.at(key), value) << key;
  EXPECT_FALSE(found.contains("leading_dense_block_count"));
  config["n_shared_experts"] = nullptr;
  EXPECT_FALSE(keys_of(config.dump()).contains("expert_shared_feed_forward_length"));
}

// Each of these makes the class of transformers refuse the file, so that the converter takes it as it is.
TEST(Hyperparameters, AFileThatItsClassRefusesHasNoDefaults) {
  const std::string start =
      R"({"model_type": "mixtral", "num_hidden_layers": 1, "vocab_size": 9, "hidden_size": 8,
                                "num_attention_heads": 2, )";
  EXPECT_EQ(keys_of(start + R"("rms_norm_eps": 1e-6})")["attention.head_count_kv"], "u32 8");
  for (const char* refused :
       {R"("num_key_value_heads": null)", R"("rms_norm_eps": 1)", R"("use_cache": null)",
        R"("hidden_act": null)", R"("torch_dtype": "auto")",
        R"("layer_types": ["full_attention", "full_attention"])", R"("rope_scaling": {"type": "linear"})",
        R"("head_dim": 7)", R"("rope_scaling": {"rope_type": "llama3", "factor": 8.0})"}) {
    auto keys = keys_of(start + refused + "}");
    EXPECT_FALSE(keys.contains("attention.head_count_kv")) << refused;
    EXPECT_FALSE(keys.contains("expert_count")) << refused;
  }
  EXPECT_NE(message_of(start + R"("rope_scaling": "linear"})").find("rope settings should be an object"),
            std::string::npos);
  EXPECT_NE(
      message_of(R"({"model_type": "qwen2", "rms_norm_eps": 1})")
          .find("\"num_hidden_layers\" is missing (transformers' defaults do not apply, because it refuses "
                "the file: \"rms_norm_eps\" is of the wrong type)"),
      std::string::npos);
  // LlamaConfig wants hidden_size to be a multiple; the others do not care.
  const std::string odd =
      R"(, "hidden_size": 33, "num_attention_heads": 8, "num_hidden_layers": 1, "vocab_size": 9})";
  EXPECT_FALSE(keys_of(R"({"model_type": "llama")" + odd).contains("attention.key_length"));
  EXPECT_EQ(keys_of(R"({"model_type": "mistral")" + odd)["attention.key_length"], "u32 4");
}

TEST(Hyperparameters, OldAndNewSpellingsOfRopeAreOne) {
  const auto rope = [](const std::string& members) {
    Expected out;
    for (const auto& [key, value] : keys_of(R"({"model_type": "llama", )" + members + "}"))
      if (key.starts_with("rope.") && key != "rope.dimension_count") out[key.substr(5)] = value;
    return out;
  };
  const Expected linear = {
      {"freq_base", "f32 48f42400"}, {"scaling.type", "str linear"}, {"scaling.factor", "f32 40000000"}};
  EXPECT_EQ(rope(R"("rope_theta": 500000, "rope_scaling": {"type": "linear", "factor": 2})"), linear);
  EXPECT_EQ(rope(R"("rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5})"), linear);
  EXPECT_EQ(rope(R"("rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0},
                    "rope_parameters": {"rope_theta": 9.0, "rope_type": "default"})"),
            linear);  // rope_scaling wins
  EXPECT_EQ(rope(R"("rope_theta": null)"), Expected());
  EXPECT_EQ(rope(R"("rope_scaling": {"type": "dynamic", "factor": 2.0})"),
            (Expected{{"freq_base", "f32 461c4000"}}));
  // The class puts max_position_embeddings in for the original length, whatever stands beside the settings.
  EXPECT_EQ(
      rope(R"("original_max_position_embeddings": 77, "rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                    "beta_fast": 24, "attention_factor": 0.75})"),
      (Expected{{"freq_base", "f32 461c4000"},
                {"scaling.type", "str yarn"},
                {"scaling.factor", "f32 40800000"},
                {"scaling.original_context_length", "u32 2048"},
                {"scaling.yarn_attn_factor", "f32 3f400000"},
                {"scaling.yarn_beta_fast", "f32 41c00000"}}));
}

TEST(Hyperparameters, RopeSettingsOfKindsOfLayers) {
  const std::string start = R"({"model_type": "qwen3", "num_hidden_layers": 2, )";
  const char* settings =
      R"("rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 5.0},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 7.0}},
         "layer_types": ["full_attention", "sliding_attention"]})";
  auto keys = keys_of(start + settings);
  EXPECT_EQ(keys["rope.freq_base"], "f32 40a00000");
  EXPECT_EQ(keys["rope.freq_base_swa"], "f32 40e00000");
  EXPECT_EQ(keys["rope.scaling.original_context_length"], "u32 32768");
}

TEST(Hyperparameters, TwoNamesOfTheNumberOfExperts) {
  EXPECT_EQ(keys_of(R"({"model_type": "mixtral", "num_local_experts": 4, "num_experts": 3})")["expert_count"],
            "u32 3");
  EXPECT_EQ(
      keys_of(R"({"model_type": "qwen3_moe", "num_local_experts": 4, "num_experts": 3})")["expert_count"],
      "u32 4");
  EXPECT_EQ(
      keys_of(R"({"model_type": "qwen2_moe", "num_local_experts": 4, "num_experts": 3})")["expert_count"],
      "u32 4");
}

TEST(Hyperparameters, HostileValues) {
  const std::string start = R"({"model_type": "llama", "num_hidden_layers": 1, "vocab_size": 9, )";
  for (const auto& [member, why] : std::vector<std::pair<std::string, std::string>>{
           {R"("hidden_size": 0)", "\"hidden_size\" is 0, expected 1 to"},
           {R"("hidden_size": -1)", "\"hidden_size\" is -1"},
           {R"("vocab_size": 18446744073709551615)", "\"vocab_size\" is 18446744073709551615"},
           {R"("max_position_embeddings": 1e30)", "\"max_position_embeddings\" should be a whole number"},
           {R"("num_attention_heads": "8")",
            "\"num_attention_heads\" should be a whole number, found string"},
           {R"("num_key_value_heads": [1])", "\"num_key_value_heads\" should be a whole number, found array"},
           {R"("rms_norm_eps": "x")", "\"rms_norm_eps\" should be a number"},
           {R"("rms_norm_eps": 1e300)", "which a 32-bit number cannot hold"},
           {R"("rope_theta": -1.0)", "\"rope_theta\" is -1, expected a positive number"},
           {R"("rope_theta": 1e-300)", "expected a positive number"},
           {R"("rope_scaling": {"rope_type": 7, "factor": 2.0})", "\"rope_type\" should be a string"},
           {R"("rope_scaling": {"rope_type": "linear", "factor": 0.0})", "\"factor\" is 0"},
           {R"("rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": -1})",
            "\"original_max_position_embeddings\" is -1"},
           {R"("scoring_func": "tanh")", "the router function \"tanh\" is none that llama.cpp has"}})
    EXPECT_NE(message_of(start + member + "}").find(why), std::string::npos)
        << member << ": " << message_of(start + member + "}");
  EXPECT_THROW(factor_bits(R"({"model_type": "llama", "head_dim": 1073741824,
                               "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                                "high_freq_factor": 4.0}})"),
               Error);
}

// The bits are those of PyTorch 2.15.
TEST(RopeFrequencyFactors, AsPyTorchComputesThem) {
  const char* tiny =
      R"({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 2, "rope_theta": 500000.0,
      "max_position_embeddings": 512, "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
      "rope_type": "llama3", "original_max_position_embeddings": 64}})";
  std::vector<uint32_t> expected(16, 0x41000000);
  expected[0] = expected[1] = 0x3f800000;
  expected[2] = 0x401c4dfb;
  EXPECT_EQ(factor_bits(tiny), expected);
}

TEST(RopeFrequencyFactors, OnlyForLlama3RopeInTheLlamaArchitecture) {
  const std::string rope =
      R"(, "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3"}})";
  EXPECT_EQ(factor_bits(R"({"model_type": "mixtral")" + rope).size(), 64);
  EXPECT_TRUE(factor_bits(R"({"model_type": "qwen2")" + rope).empty());
  EXPECT_TRUE(factor_bits(R"({"model_type": "llama"})").empty());
}

}  // namespace
}  // namespace moerge
