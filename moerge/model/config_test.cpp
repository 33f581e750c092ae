#include "moerge/model/config.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/model/architecture.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

ModelConfig parse(const std::string& text) {
  return parse_model_config(parse_json(text, "config.json"), "config.json");
}

std::string message_of(const std::string& text) {
  try {
    parse(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(ModelConfig, ClassDefaultsFillTheGaps) {
  const ModelConfig llama = parse(R"({"model_type": "llama"})");
  EXPECT_EQ(llama.kv_heads, 32);
  EXPECT_EQ(llama.ffn, 11008);
  EXPECT_EQ(llama.max_positions, 2048);
  EXPECT_EQ(llama.norm_epsilon, 1e-6);
  EXPECT_FALSE(llama.sliding_window);
  const ModelConfig mistral = parse(R"({"model_type": "mistral"})");
  EXPECT_EQ(mistral.kv_heads, 8);
  EXPECT_EQ(mistral.sliding_window, 4096);
  EXPECT_EQ(mistral.rope.theta, 10000);
  EXPECT_FALSE(parse(R"({"model_type": "mistral", "sliding_window": null})").sliding_window);
  EXPECT_EQ(parse(R"({"model_type": "mistral", "num_key_value_heads": null})").kv_heads, 32);
}

TEST(ModelConfig, BothSpellingsOfRopeAreOne) {
  const ModelConfig old_spelling = parse(R"({"model_type": "llama", "rope_theta": 5e5, "rope_scaling":
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})");
  const ModelConfig new_spelling =
      parse(R"({"model_type": "llama", "rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3",
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})");
  EXPECT_EQ(old_spelling.rope.type, "llama3");
  EXPECT_EQ(old_spelling.rope.theta, 5e5);
  EXPECT_EQ(nlohmann::json(old_spelling.rope.scaling), nlohmann::json(new_spelling.rope.scaling));
  EXPECT_EQ(parse(R"({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}})")
                .rope.scaling["rope_type"],
            "linear");
  EXPECT_TRUE(
      parse(R"({"model_type": "llama", "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}})")
          .rope.scaling.is_null());
  EXPECT_TRUE(parse(R"({"model_type": "llama", "rope_scaling": null})").rope.scaling.is_null());
}

TEST(ModelConfig, DTypeInEitherSpelling) {
  EXPECT_EQ(parse(R"({"model_type": "llama", "torch_dtype": "float16"})").dtype, DType::f16);
  EXPECT_EQ(parse(R"({"model_type": "llama", "dtype": "bfloat16"})").dtype, DType::bf16);
  EXPECT_FALSE(parse(R"({"model_type": "llama"})").dtype);
}

TEST(ModelConfig, FamiliesWithoutATable) {
  const Json json = {{"model_type", "gpt2"}, {"vocab_size", 7}, {"dtype", "float16"}, {"n_layer", 2}};
  EXPECT_THROW(parse_model_config(json, "config.json"), Error);
  const ModelConfig config = parse_model_config(json, "config.json", Families::any);
  EXPECT_EQ(config.model_type, "gpt2");
  EXPECT_EQ(config.vocab, 7);
  EXPECT_EQ(config.dtype, DType::f16);
  EXPECT_EQ(config.raw, json);
  EXPECT_THROW(parse_model_config({{"model_type", "gpt2"}, {"vocab_size", 0}}, "config.json", Families::any),
               Error);
}

TEST(ModelConfig, RefusesWhatCannotBe) {
  EXPECT_NE(
      message_of(R"({"model_type": "gpt2"})").find("\"gpt2\" is not supported (supported: llama, mistral"),
      std::string::npos);
  EXPECT_NE(message_of("{}").find("not supported"), std::string::npos);
  EXPECT_NE(message_of("[]").find("should be a JSON object"), std::string::npos);
  EXPECT_NE(message_of(R"({"model_type": "llama", "hidden_size": 0})").find("\"hidden_size\" is 0"),
            std::string::npos);
  EXPECT_NE(message_of(R"({"model_type": "llama", "hidden_size": -8})"), "");
  EXPECT_NE(message_of(R"({"model_type": "llama", "hidden_size": 9223372036854775807})"), "");
  EXPECT_NE(message_of(R"({"model_type": "llama", "hidden_size": "big"})").find("should be an integer"),
            std::string::npos);
  EXPECT_NE(message_of(R"({"model_type": "llama", "num_hidden_layers": 1000000})"), "");
  EXPECT_NE(message_of(R"({"model_type": "llama", "num_attention_heads": 5})").find("no multiple"),
            std::string::npos);
  EXPECT_NE(message_of(R"({"model_type": "llama", "num_key_value_heads": 7})").find("no multiple"),
            std::string::npos);
  EXPECT_NE(message_of(R"({"model_type": "llama", "rope_scaling": 3})").find("should be an object"),
            std::string::npos);
  EXPECT_NE(message_of(R"({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}})")
                .find("quantised (gptq)"),
            std::string::npos);
}

TEST(Architecture, EveryFamilyIsComplete) {
  for (const Architecture* family : architectures()) {
    EXPECT_EQ(find_architecture(family->model_type), family);
    for (const Role role :
         {Role::embedding, Role::output_norm, Role::output, Role::attention_norm, Role::q, Role::k, Role::v,
          Role::o, Role::ffn_norm, Role::ffn_gate, Role::ffn_up, Role::ffn_down}) {
      const WeightTemplate& weight = weight_for(*family, role);
      EXPECT_EQ(is_per_layer(role), weight.name.find("{layer}") != std::string_view::npos) << weight.name;
    }
    Json json = {{"model_type", family->model_type}};
    if (family->mixture) json[family->mixture->keys.experts] = 4, json["num_experts_per_tok"] = 2;
    const ModelConfig config = parse(json.dump());
    EXPECT_EQ(expected_shape(Role::ffn_down, config), (Shape{config.hidden, config.ffn}));
  }
}

TEST(Mixture, WeightsOfTheChosenExperts) {
  const auto read = [](const std::string& type, int64_t per_token) {
    Json json = {{"model_type", type},           {"num_experts_per_tok", per_token}, {"norm_topk_prob", true},
                 {"routed_scaling_factor", 2.5}, {"num_local_experts", 4},           {"n_routed_experts", 4},
                 {"moe_intermediate_size", 8}};
    return parse(json.dump());
  };
  EXPECT_TRUE(read("deepseek", 2).normalised);
  EXPECT_FALSE(read("deepseek", 1).normalised);  // its code leaves a single weight as it is
  EXPECT_TRUE(read("qwen2_moe", 1).normalised);
  EXPECT_EQ(read("deepseek", 2).routed_scale, 2.5);
  EXPECT_EQ(read("mixtral", 2).routed_scale, 1);  // a key that the family does not have
}

class Weights : public ::testing::Test {
 protected:
  WeightReport check(const std::vector<testing::TinyTensor>& tensors,
                     const std::string& config = testing::kTinyConfig) {
    dir_.write("model.safetensors", testing::safetensors_bytes(tensors));
    const Checkpoint checkpoint(dir_.path());
    return check_weights(*find_architecture("llama"), parse(config), checkpoint);
  }
  testing::TempDir dir_;
};

TEST_F(Weights, AWholeModelIsFine) {
  const WeightReport report = check(testing::tiny_tensors(1));
  EXPECT_TRUE(report.errors.empty() && report.warnings.empty());
}

TEST_F(Weights, TiedModelsNeedNoOutput) {
  auto tensors = testing::tiny_tensors(1);
  tensors.pop_back();
  EXPECT_EQ(check(tensors).errors.size(), 1u);
  std::string tied = testing::kTinyConfig;
  tied.insert(1, "\"tie_word_embeddings\": true, ");
  EXPECT_TRUE(check(tensors, tied).errors.empty());
}

TEST_F(Weights, NamesWhatIsWrong) {
  auto tensors = testing::tiny_tensors(1);
  tensors[1].shape = {2, 4};
  tensors[2].dtype = "I32";
  tensors[3].name = "model.layers.0.self_attn.k_proj.bias.x";
  tensors.push_back({"v_head.weight", "F32", {1}, "1234"});
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {1}, "1234"});
  const WeightReport report = check(tensors);
  ASSERT_EQ(report.errors.size(), 4u);
  EXPECT_NE(report.errors[0].find("input_layernorm.weight\" is [2, 4], config.json says [8]"),
            std::string::npos);
  EXPECT_NE(report.errors[1].find("is int32"), std::string::npos);
  EXPECT_NE(report.errors[2].find("k_proj.weight\" [4, 8] is missing"), std::string::npos);
  EXPECT_NE(report.errors[3].find("k_proj.bias.x\" is not part of"), std::string::npos);
  ASSERT_EQ(report.warnings.size(), 1u);
  EXPECT_NE(report.warnings[0].find("v_head"), std::string::npos);
}

TEST_F(Weights, ManyProblemsAreCutShort) {
  const WeightReport report = check({{"x", "F32", {1}, "1234"}});
  EXPECT_EQ(report.errors.size(), 6u);
  EXPECT_NE(report.errors.back().find("more like these"), std::string::npos);
}

// Of a file with 63,744 layers by its own account, in 4 kB.
TEST_F(Weights, ManyMoreLayersThanTensorsAreOneProblem) {
  std::string deep = testing::kTinyConfig;
  const std::string layers = "\"num_hidden_layers\": ";
  deep.replace(deep.find(layers + "2"), layers.size() + 1, layers + "63744");
  const auto tensors = testing::tiny_tensors(1);
  const WeightReport report = check(tensors, deep);
  ASSERT_EQ(report.errors.size(), 1u);
  EXPECT_NE(report.errors[0].find(fmt::format(
                "says that there are 63744 layers, and there are only {} tensors", tensors.size())),
            std::string::npos)
      << report.errors[0];
}

// Which of 6 layers have a window, as a word of 0 and 1.
std::string windows_of(const std::string& members) {
  const ModelConfig config = parse(R"({"num_hidden_layers": 6, )" + members + "}");
  std::string out;
  for (int64_t layer = 0; layer < 6; layer++) out += has_window(config, layer) ? '1' : '0';
  return out;
}

TEST(Config, Windows) {
  const std::string used = R"("use_sliding_window": true, "sliding_window": 8, )";
  const std::string types = R"("layer_types": ["full_attention", "sliding_attention", "full_attention",
    "full_attention", "full_attention", "sliding_attention"])";
  // transformers: LlamaConfig does not know the key.
  EXPECT_EQ(windows_of(R"("model_type": "llama", "sliding_window": 8)"), "000000");
  EXPECT_EQ(windows_of(R"("model_type": "mistral")"), "111111");
  EXPECT_EQ(windows_of(R"("model_type": "mistral", "sliding_window": null)"), "000000");
  EXPECT_EQ(windows_of(R"("model_type": "mistral", )" + types), "010001");
  EXPECT_EQ(windows_of(R"("model_type": "mixtral")"), "000000");
  EXPECT_EQ(windows_of(R"("model_type": "mixtral", "sliding_window": 8)"), "111111");
  for (const std::string family : {R"("model_type": "qwen2")", R"("model_type": "qwen3")"}) {
    EXPECT_EQ(windows_of(R"("sliding_window": 8, "max_window_layers": 0, )" + family), "000000");
    EXPECT_EQ(windows_of(used + R"("max_window_layers": 4, )" + family), "000011");
    EXPECT_EQ(windows_of(used + family), "000000");  // from layer 28 on
    EXPECT_EQ(windows_of(used + types + ", " + family), "010001");
  }
  EXPECT_EQ(windows_of(used + R"("model_type": "qwen2_moe")"), "101010");
  EXPECT_EQ(windows_of(used + R"("max_window_layers": 3, "model_type": "qwen2_moe")"), "101000");
  EXPECT_EQ(windows_of(used + types + R"(, "model_type": "qwen2_moe")"), "010001");
  EXPECT_EQ(windows_of(used + R"("model_type": "qwen3_moe")"), "111111");
  EXPECT_EQ(windows_of(R"("sliding_window": 8, "model_type": "qwen3_moe")"), "000000");

  EXPECT_FALSE(
      parse(R"({"model_type": "qwen2", "num_hidden_layers": 6, )" + used + R"("max_window_layers": 6})")
          .sliding_window);
  const auto refused = [&](const std::string& list) {
    return message_of(R"({"model_type": "qwen2", "num_hidden_layers": 2, )" + used + R"("layer_types": )" +
                      list + "}");
  };
  EXPECT_NE(refused(R"(["full_attention"])").find("should be a list of 2 entries"), std::string::npos);
  EXPECT_NE(refused("3").find("should be a list of 2 entries"), std::string::npos);
  EXPECT_NE(refused(R"(["full_attention", "linear_attention"])").find("holds \"linear_attention\""),
            std::string::npos);
}

TEST(Config, RopeOfEveryKindOfLayer) {
  const std::string one = R"({"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5})";
  const ModelConfig config = parse(R"({"model_type": "qwen2", "rope_parameters": {"full_attention": )" + one +
                                   R"(, "sliding_attention": )" + one + "}}");
  EXPECT_EQ(config.rope.type, "linear");
  EXPECT_EQ(config.rope.theta, 5e5);
  EXPECT_EQ(config.rope.scaling["factor"], 2.0);
  for (const char* other : {R"({"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5})", "null", "1e4"})
    EXPECT_NE(message_of(R"({"model_type": "qwen2", "rope_parameters": {"full_attention": )" + one +
                         R"(, "sliding_attention": )" + other + "}}")
                  .find("differ from one kind of layer to the other"),
              std::string::npos)
        << other;
}

// As transformers 5 writes a Qwen3MoeConfig.
TEST(Config, OtherNameForTheNumberOfExperts) {
  EXPECT_EQ(parse(R"({"model_type": "qwen3_moe", "num_local_experts": 16})").experts, 16);
  EXPECT_EQ(parse(R"({"model_type": "qwen3_moe", "num_experts": 24})").experts, 24);
  EXPECT_NE(
      message_of(R"({"model_type": "qwen3_moe", "num_local_experts": 0})").find("\"num_local_experts\" is 0"),
      std::string::npos);
}

}  // namespace
}  // namespace moerge
