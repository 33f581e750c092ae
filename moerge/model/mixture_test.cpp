#include "moerge/model/mixture.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/model/model.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

using testing::TempDir;
using testing::TinyTensor;

constexpr int64_t kExperts = 3;

Json mixtral_json() {
  Json json = Json::parse(testing::kTinyConfig);
  json["model_type"] = "mixtral";
  json["architectures"] = {"MixtralForCausalLM"};
  json["num_local_experts"] = kExperts;
  json["num_experts_per_tok"] = 2;
  json["rope_theta"] = 5e5;
  return json;
}

TinyTensor make(const std::string& name, std::vector<int64_t> shape, int seed) {
  int64_t count = 1;
  for (const int64_t n : shape) count *= n;
  return {name, "F32", std::move(shape), testing::f32_bytes(count, seed)};
}

// The tiny model with three experts in the stacked layout.
std::vector<TinyTensor> stacked_tensors() {
  std::vector<TinyTensor> tensors = testing::tiny_tensors(1);
  std::erase_if(tensors, [](const TinyTensor& t) { return t.name.find(".mlp.") != std::string::npos; });
  for (int layer = 0; layer < 2; layer++) {
    const std::string prefix = fmt::format("model.layers.{}.mlp.", layer);
    tensors.push_back(make(prefix + "gate.weight", {kExperts, 8}, 50 + layer));
    tensors.push_back(make(prefix + "experts.gate_up_proj", {kExperts, 24, 8}, 60 + layer));
    tensors.push_back(make(prefix + "experts.down_proj", {kExperts, 8, 12}, 70 + layer));
  }
  return tensors;
}

Model open(const TempDir& dir, const std::vector<TinyTensor>& tensors, std::optional<int64_t> expert = {},
           const Json& json = mixtral_json()) {
  dir.write("m/config.json", json.dump());
  dir.write("m/model.safetensors", testing::safetensors_bytes(tensors));
  return Model("m", {.path = dir / "m", .expert = expert});
}

std::string bytes(const StoredTensor& tensor) {
  const auto view = tensor.view().bytes;
  return {reinterpret_cast<const char*>(view.data()), view.size()};
}

TEST(Mixture, StacksBecomeTensorsOfExperts) {
  const TempDir dir;
  const Model model = open(dir, stacked_tensors());
  EXPECT_TRUE(check_weights(*model.architecture, model.config, model.checkpoint).errors.empty());
  const std::string gate_up = testing::f32_bytes(kExperts * 24 * 8, 61);
  const std::string down = testing::f32_bytes(kExperts * 8 * 12, 71);
  constexpr size_t kMatrix = 12 * 8 * 4;
  for (size_t e = 0; e < kExperts; e++) {
    const auto expert = static_cast<int64_t>(e);
    EXPECT_EQ(bytes(model.tensor(Role::ffn_gate, 1, expert)), gate_up.substr(2 * e * kMatrix, kMatrix));
    EXPECT_EQ(bytes(model.tensor(Role::ffn_up, 1, expert)), gate_up.substr((2 * e + 1) * kMatrix, kMatrix));
    EXPECT_EQ(bytes(model.tensor(Role::ffn_down, 1, expert)), down.substr(e * kMatrix, kMatrix));
  }
  EXPECT_EQ(bytes(model.tensor(Role::router, 0)), testing::f32_bytes(kExperts * 8, 50));
}

TEST(Mixture, OneExpertIsADenseModel) {
  const TempDir dir;
  const Model mixture = open(dir, stacked_tensors());
  const Model model = open(dir, stacked_tensors(), 2);
  EXPECT_EQ(model.architecture->model_type, "mistral");
  EXPECT_EQ(model.config.experts, 0);
  EXPECT_EQ(model.config.rope.theta, 5e5);
  EXPECT_FALSE(model.config.sliding_window);  // though Mistral's default is 4096
  ASSERT_TRUE(model.origin);
  EXPECT_EQ(model.origin->expert, 2);
  EXPECT_EQ(model.origin->mixture.experts, kExperts);
  const WeightReport report = check_weights(*model.architecture, model.config, model.checkpoint);
  EXPECT_TRUE(report.errors.empty());
  EXPECT_TRUE(report.warnings.empty());
  for (const Role role : {Role::ffn_gate, Role::ffn_up, Role::ffn_down})
    EXPECT_EQ(bytes(model.tensor(role, 1)), bytes(mixture.tensor(role, 1, 2)));
  EXPECT_EQ(bytes(model.tensor(Role::q, 1)), bytes(mixture.tensor(Role::q, 1)));
  EXPECT_EQ(model.checkpoint.tensors().size(), testing::tiny_tensors(1).size());
}

std::string refusal(const std::vector<TinyTensor>& tensors, std::optional<int64_t> expert = {},
                    const Json& json = mixtral_json()) {
  const TempDir dir;
  try {
    open(dir, tensors, expert, json);
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

TEST(Mixture, ExpertsThatAreNotThere) {
  EXPECT_EQ(refusal(stacked_tensors(), 3),
            "model \"m\": there is no expert 3: the model has 3 experts, #expert=0 to #expert=2");
  EXPECT_NE(refusal(stacked_tensors(), INT64_MAX).find("there is no expert 9223372036854775807"),
            std::string::npos);
  EXPECT_NE(refusal(stacked_tensors(), INT64_MIN).find("there is no expert"), std::string::npos);
  EXPECT_NE(refusal(stacked_tensors(), kSharedExpert).find("no shared expert"), std::string::npos);
  EXPECT_NE(refusal(testing::tiny_tensors(1), 0, Json::parse(testing::kTinyConfig)).find("is a dense llama"),
            std::string::npos);
}

TEST(Mixture, StacksOfAnotherShape) {
  const auto with = [](std::vector<int64_t> shape) {
    std::vector<TinyTensor> tensors = stacked_tensors();
    for (TinyTensor& tensor : tensors)
      if (tensor.name == "model.layers.1.mlp.experts.gate_up_proj") tensor = make(tensor.name, shape, 1);
    return refusal(tensors);
  };
  EXPECT_EQ(with({kExperts, 24, 8}), "");
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{2, 24, 8},
                                            {4, 24, 8},
                                            {3, 8, 24},
                                            {3, 12, 16},
                                            {72, 8},
                                            {576},
                                            {3, 24, 8, 1},
                                            {}})
    EXPECT_NE(with(shape).find("config.json says [3, 24, 8] (experts, rows, columns)"), std::string::npos)
        << with(shape);
}

TEST(Mixture, ExpertsInBothLayouts) {
  std::vector<TinyTensor> tensors = stacked_tensors();
  tensors.push_back(make("model.layers.0.block_sparse_moe.experts.1.w2.weight", {8, 12}, 1));
  EXPECT_NE(refusal(tensors).find("expert 1 of layer 0 is there twice, in "
                                  "\"model.layers.0.mlp.experts.down_proj\" and in"),
            std::string::npos);
}

TEST(Mixture, ADenseModelsTensorInAMixture) {
  std::vector<TinyTensor> tensors = stacked_tensors();
  tensors.push_back(make("model.layers.1.mlp.up_proj.weight", {12, 8}, 1));
  EXPECT_NE(refusal(tensors, 0).find("\"model.layers.1.mlp.up_proj.weight\" is not part of a mixtral model"),
            std::string::npos);
}

// Every family: what its expert is as a dense model can be read again and says the same of what stays.
TEST(Mixture, ConfigurationOfAnExpert) {
  for (const Architecture* family : architectures()) {
    if (!family->mixture) continue;
    const ExpertKeys& keys = family->mixture->keys;
    Json json = Json::parse(testing::kTinyConfig);
    json["model_type"] = family->model_type;
    json[keys.experts] = 4;
    json["num_experts_per_tok"] = 2;
    json["head_dim"] = 6;
    json["use_sliding_window"] = true;
    json["sliding_window"] = 8;
    json["max_window_layers"] = 1;
    json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 3.0}};
    if (keys.ffn) json[keys.ffn] = 20;
    if (keys.shared_count) json[keys.shared_count] = 2;
    const ModelConfig mixture = parse_model_config(json, "config.json");
    const Architecture& dense = *find_architecture(family->mixture->expert_type);
    const Json made = expert_config_json(mixture, *family, dense, 1);
    const ModelConfig config = parse_model_config(made, "config.json");
    EXPECT_EQ(config.model_type, dense.model_type);
    EXPECT_EQ(config.ffn, mixture.ffn);
    EXPECT_EQ(std::tuple(config.layers, config.hidden, config.heads, config.kv_heads, config.head_dim,
                         config.vocab, config.max_positions, config.norm_epsilon, config.dtype),
              std::tuple(mixture.layers, mixture.hidden, mixture.heads, mixture.kv_heads, mixture.head_dim,
                         mixture.vocab, mixture.max_positions, mixture.norm_epsilon, mixture.dtype));
    EXPECT_EQ(config.rope, mixture.rope);
    EXPECT_EQ(config.sliding_window, mixture.sliding_window);
    for (int64_t layer = 0; layer < mixture.layers; layer++)
      EXPECT_EQ(has_window(config, layer), has_window(mixture, layer));
    EXPECT_FALSE(made.contains(keys.experts));
    EXPECT_FALSE(made.contains("num_experts_per_tok"));
    if (mixture.shared_ffn == 0) continue;
    EXPECT_EQ(expert_config_json(mixture, *family, dense, kSharedExpert)["intermediate_size"],
              mixture.shared_ffn);
  }
}

}  // namespace
}  // namespace moerge
