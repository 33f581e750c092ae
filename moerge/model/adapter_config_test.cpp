#include "moerge/model/adapter_config.h"

#include <gtest/gtest.h>

#include <cmath>

#include "moerge/base/error.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {

AdapterConfig read(const std::string& members) {
  const testing::TempDir dir;
  dir.write("adapter_config.json", R"({"peft_type": "LORA", "r": 8, "lora_alpha": 16)" + members + "}");
  return read_adapter_config(dir.path());
}

std::string message_of(const std::string& members) {
  try {
    const AdapterConfig config = read(members);
    scale_of(config, "model.layers.0.mlp.up_proj");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(AdapterConfig, ScaleIsAlphaOverRank) {
  EXPECT_EQ(scale_of(read(""), "x"), 2.0);
  EXPECT_EQ(scale_of(read(R"(, "use_rslora": true)"), "x"), 16 / std::sqrt(8.0));
  EXPECT_EQ(scale_of(read(R"(, "use_rslora": true, "rank_pattern": {"x": 4})"), "a.x"), 8.0);
}

// PEFT: re.match(rf"(.*\.)?({key})$", name), the first key that matches.
TEST(AdapterConfig, PatternsMatchEndsOfNames) {
  const auto rank = [](const std::string& pattern, const std::string& module) {
    return rank_of(read(", \"rank_pattern\": {" + pattern + "}"), module);
  };
  const std::string up = "model.layers.1.mlp.up_proj";
  EXPECT_EQ(rank(R"("up_proj": 3)", up), 3);
  EXPECT_EQ(rank(R"("p_proj": 3)", up), 8);
  EXPECT_EQ(rank(R"("mlp.up_proj": 3)", up), 3);
  EXPECT_EQ(rank(R"("model.layers.1.mlp.up_proj": 3)", up), 3);
  EXPECT_EQ(rank(R"("del.layers.1.mlp.up_proj": 3)", up), 8);
  EXPECT_EQ(rank(R"("mlp": 3)", up), 8);
  EXPECT_EQ(rank(R"("mlp_up_proj": 3)", up), 8);
  EXPECT_EQ(rank(R"("layers.1.mlp.up.proj": 3)", up), 3);  // a point is any character
  EXPECT_EQ(rank(R"("layers\\.[0-3]\\.mlp\\.(up|down)_proj": 3)", up), 3);
  EXPECT_EQ(rank(R"("layers\\.[02]\\..*": 3)", up), 8);
  EXPECT_EQ(rank(R"("^model.layers.1.mlp.up_proj": 3)", up), 3);
  EXPECT_EQ(rank(R"("^layers.1.mlp.up_proj": 3)", up), 8);
  EXPECT_EQ(rank(R"("down_proj": 3, ".*_proj": 4, "up_proj": 5)", up), 4);
}

TEST(AdapterConfig, APatternThatTriesForYearsDoesNot) {
  const std::string name(500, 'x');
  EXPECT_EQ(rank_of(read(R"(, "rank_pattern": {"(x*)*(x*)*(x*)*y": 3})"), name), 8);
}

TEST(AdapterConfig, RefusesWhatIsNotPlainLora) {
  for (const char* key : {"use_dora", "use_qalora", "lora_bias"})
    EXPECT_NE(message_of(std::string(", \"") + key + "\": true").find("is set"), std::string::npos) << key;
  for (const char* init : {"pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"})
    EXPECT_NE(message_of(std::string(", \"init_lora_weights\": \"") + init + "\"").find("a changed base"),
              std::string::npos)
        << init;
  for (const char* harmless : {R"("use_dora": false)", R"("layer_replication": null)",
                               R"("alora_invocation_tokens": [])", R"("init_lora_weights": "gaussian")",
                               R"("init_lora_weights": true)", R"("init_lora_weights": "eva")"})
    EXPECT_EQ(message_of(std::string(", ") + harmless), "") << harmless;
}

TEST(AdapterConfig, RefusesWhatMakesNoSense) {
  EXPECT_NE(message_of(R"(, "rank_pattern": {"up_proj": 2.5})").find("the rank for"), std::string::npos);
  EXPECT_NE(message_of(R"(, "alpha_pattern": {"up_proj": 1e300})").find("\"lora_alpha\" for"),
            std::string::npos);
  EXPECT_NE(message_of(R"(, "modules_to_save": [1])").find("list of names"), std::string::npos);
  EXPECT_NE(message_of(R"(, "trainable_token_indices": "all")").find("list of numbers"), std::string::npos);
  EXPECT_NE(message_of(R"(, "trainable_token_indices": {"wte": [1.5]})").find("holds 1.5"),
            std::string::npos);
  EXPECT_NE(message_of(R"(, "rank_pattern": {")" + std::string(300, '[') + R"(": 1})").find("longer"),
            std::string::npos);
  for (const char* reference : {R"((up)_proj\\1)", R"(up_proj\\888888888888888888888888)"})
    EXPECT_NE(message_of(std::string(", \"rank_pattern\": {\"") + reference + "\": 1}").find("more involved"),
              std::string::npos)
        << reference;
}

}  // namespace
}  // namespace moerge
