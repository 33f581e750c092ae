#include "moerge/moe/build.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/moe/card.h"
#include "moerge/moe/gate_job.h"
#include "moerge/moe/planned_model.h"
#include "moerge/moe/summary.h"
#include "moerge/plan/execute.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

class FakeEncoder final : public PromptEncoder {
 public:
  explicit FakeEncoder(int64_t fail_at_layer = -1) : fail_at_layer_(fail_at_layer) {}
  void encode(std::span<const TokenSequence> sequences, const PassTaps& taps) override {
    for (int64_t layer = 0; layer < 2; layer++) {
      if (layer == fail_at_layer_) fail(ErrorKind::input, "states are not finite");
      std::vector<float> states;
      for (const TokenSequence& sequence : sequences)
        for (const int32_t token : sequence)
          for (int i = 0; i < 8; i++)
            states.push_back(std::cos(static_cast<float>(token * 8 + i) + static_cast<float>(layer)));
      if (taps.entering) taps.entering(layer, states);
      if (taps.router) taps.router({layer, states, {}, {}});
    }
  }

 private:
  int64_t fail_at_layer_;
};

class Build : public ::testing::Test {
 protected:
  Build() {
    int seed = 0;
    for (const char* name : {"base", "a", "b"}) testing::write_tiny_model(dir_, name, seed++);
  }

  MoePlan plan(const std::string& more = "", PlanOptions options = {}, const std::string& second = "") {
    const std::string yaml =
        "base_model: base\nexperts:\n  - source_model: a\n    positive_prompts: [abc, de]\n"
        "  - source_model: b\n    positive_prompts: [fgh]\n" +
        second + more;
    const Resolve resolve = [&](const std::string& name) { return ModelLocation{dir_ / name, {}}; };
    return plan_moe(parse_moe_config(yaml, "c.yaml", false), resolve, options);
  }

  std::vector<Collision> build(MoePlan& moe, BuildOptions options = {}, int64_t fail_at_layer = -1) {
    if (options.out.empty()) options.out = dir_ / "out";
    Reporter reporter(Verbosity::quiet);
    build_moe(moe, lay_out_folder(moe.plan, options), options, std::make_unique<FakeEncoder>(fail_at_layer),
              reporter);
    return find_collisions(moe.gates->get().table, std::ssize(moe.models.experts));
  }

  std::string message_of(const std::string& more) {
    try {
      plan(more);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  static std::string bytes(const Checkpoint& checkpoint, const std::string& name) {
    const auto view = checkpoint.at(name).view().bytes;
    return {reinterpret_cast<const char*>(view.data()), view.size()};
  }

  TempDir dir_;
};

TEST_F(Build, MemoryOfTheRouters) {
  MoePlan moe = plan();
  GateMode modest = *moe.gate_mode, greedy = modest;
  modest.extra_bytes = nullptr;
  moe.gate_mode = &modest;
  EXPECT_EQ(gate_bytes(moe), 2 * 8 * (2 * 4 + 8));  // experts, hidden, layers in float32 and a sum
  greedy.extra_bytes = [](const GateInput& input) { return 1000 * input.hidden; };
  moe.gate_mode = &greedy;
  EXPECT_EQ(gate_bytes(moe), 2 * 8 * (2 * 4 + 8) + 8000);
}

TEST_F(Build, EveryFamilyIsJudged) {
  const MoePlan moe = plan();
  const std::vector<FamilyFit> fits = judge_outputs(moe.models, moe.config, false);
  ASSERT_EQ(fits.size(), output_architectures().size());
  for (const FamilyFit& fit : fits)
    EXPECT_EQ(fit.why_not, why_not(*fit.output, moe.models, moe.config, false)) << fit.output->name;
  EXPECT_EQ(fits.front().output, moe.output);
  EXPECT_TRUE(is_wanted(*fits.front().output, moe.config));
  EXPECT_FALSE(is_wanted(*fits.back().output, moe.config));  // Granite, by request only
}

TEST_F(Build, EveryTensorComesFromItsSource) {
  MoePlan moe = plan();
  build(moe, {.verify = true, .threads = 3});
  const Checkpoint out(dir_ / "out"), base(dir_ / "base"), a(dir_ / "a"), b(dir_ / "b");
  EXPECT_EQ(out.tensors().size(), 3u + 2 * (6 + 1 + 6));
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.layers.1.self_attn.k_proj.weight",
        "model.layers.0.post_attention_layernorm.weight"})
    EXPECT_EQ(bytes(out, name), bytes(base, name));
  EXPECT_EQ(bytes(out, "model.layers.0.block_sparse_moe.experts.0.w1.weight"),
            bytes(a, "model.layers.0.mlp.gate_proj.weight"));
  EXPECT_EQ(bytes(out, "model.layers.1.block_sparse_moe.experts.1.w2.weight"),
            bytes(b, "model.layers.1.mlp.down_proj.weight"));
  EXPECT_EQ(bytes(out, "model.layers.1.block_sparse_moe.experts.1.w3.weight"),
            bytes(b, "model.layers.1.mlp.up_proj.weight"));
  EXPECT_EQ(out.at("model.layers.0.block_sparse_moe.gate.weight").spec.shape, (Shape{2, 8}));
  EXPECT_EQ(read_file(dir_ / "out/tokenizer.json", 1 << 20), testing::kTinyTokenizer);
  EXPECT_EQ(read_file(dir_ / "out/mergekit_moe_config.yml", 1 << 20), moe.config.yaml);
  EXPECT_EQ(read_json(dir_ / "out/config.json")["num_local_experts"], 2);
}

TEST_F(Build, PlannedModelIsWhatWillBeBuilt) {
  // One type copied, the other converted; noise and scale on top.
  for (const char* dtype : {"", "dtype: float16\n", "dtype: float32\n"})
    for (const Layout layout : {Layout::per_expert, Layout::fused}) {
      MoePlan moe =
          plan(dtype, {.layout = layout, .seed = 1}, "    noise_scale: 0.1\n    residual_scale: 0.5\n");
      const PlannedModel planned(moe);
      build(moe, {.out = dir_ / "out", .overwrite = true});
      const Model built("built", {dir_ / "out"});
      EXPECT_EQ(planned.model().config.experts_per_token, built.config.experts_per_token);
      ASSERT_EQ(planned.model().checkpoint.tensors().size(), built.checkpoint.tensors().size());
      for (const StoredTensor& tensor : built.checkpoint.tensors()) {
        const StoredTensor& other = planned.model().checkpoint.at(tensor.spec.name);
        ASSERT_EQ(other.spec.shape, tensor.spec.shape) << tensor.spec.name;
        ASSERT_EQ(other.spec.dtype, tensor.spec.dtype) << tensor.spec.name;
        std::vector<std::byte> expected(static_cast<size_t>(tensor.spec.bytes())), found(expected.size());
        read_rows(tensor, 0, tensor.rows(), expected);
        read_rows(other, 0, 1, std::span(found).first(static_cast<size_t>(tensor.row_bytes())));
        read_rows(other, 1, other.rows() - 1,
                  std::span(found).subspan(static_cast<size_t>(tensor.row_bytes())));
        EXPECT_EQ(found, expected) << tensor.spec.name;
      }
    }
}

TEST_F(Build, FusedIsTheSameStacked) {
  MoePlan one = plan("", {.seed = 1}, "    noise_scale: 0.1\n    residual_scale: 0.5\n");
  MoePlan two =
      plan("", {.layout = Layout::fused, .seed = 1}, "    noise_scale: 0.1\n    residual_scale: 0.5\n");
  build(one);
  build(two, {.out = dir_ / "fused"});
  const Checkpoint each(dir_ / "out"), fused(dir_ / "fused");
  const std::string prefix = "model.layers.1.block_sparse_moe.experts.";
  EXPECT_EQ(bytes(fused, "model.layers.1.mlp.experts.gate_up_proj"),
            bytes(each, prefix + "0.w1.weight") + bytes(each, prefix + "0.w3.weight") +
                bytes(each, prefix + "1.w1.weight") + bytes(each, prefix + "1.w3.weight"));
  EXPECT_EQ(bytes(fused, "model.layers.1.mlp.experts.down_proj"),
            bytes(each, prefix + "0.w2.weight") + bytes(each, prefix + "1.w2.weight"));
  EXPECT_EQ(bytes(fused, "model.layers.1.mlp.gate.weight"),
            bytes(each, "model.layers.1.block_sparse_moe.gate.weight"));
  EXPECT_EQ(fused.at("model.layers.1.mlp.experts.gate_up_proj").spec.shape, (Shape{2, 24, 8}));
}

TEST_F(Build, ParametersAreCounted) {
  const MoePlan moe = plan("experts_per_token: 1\n");
  const Checkpoint base(dir_ / "base");
  const int64_t ffn = 2 * 3 * 8 * 12, dense = base.bytes() / 4;
  EXPECT_EQ(moe.total_parameters, dense + ffn + 2 * 2 * 8);
  EXPECT_EQ(moe.active_parameters, dense + 2 * 2 * 8);
}

TEST_F(Build, AFailedRunLeavesTheOldOutput) {
  dir_.write("out/config.json", "old");
  MoePlan moe = plan();
  EXPECT_THROW(build(moe, {.out = dir_ / "out", .overwrite = true}, 1), Error);
  EXPECT_EQ(read_file(dir_ / "out/config.json", 100), "old");
  MoePlan fine = plan();
  EXPECT_THROW(build(fine, {.out = dir_ / "out"}), Error);
  EXPECT_EQ(read_file(dir_ / "out/config.json", 100), "old");
  EXPECT_FALSE(fs::exists(dir_ / ".out.moerge-partial"));
  build(fine, {.out = dir_ / "out", .overwrite = true});
  EXPECT_TRUE(fs::exists(dir_ / "out/model.safetensors"));
}

TEST_F(Build, OutputAndSourcesStayApart) {
  MoePlan moe = plan();
  EXPECT_THROW(build(moe, {.out = dir_ / "a/out"}), Error);
  EXPECT_THROW(build(moe, {.out = dir_ / "a", .overwrite = true}), Error);
  EXPECT_THROW(build(moe, {.out = dir_.path(), .overwrite = true}), Error);
  EXPECT_TRUE(fs::exists(dir_ / "a/model.safetensors"));
}

TEST_F(Build, CollidingRoutersAreReported) {
  MoePlan moe = plan();
  EXPECT_TRUE(build(moe).empty());
  const std::string yaml =
      "base_model: base\nexperts:\n  - source_model: a\n    positive_prompts: [abc]\n"
      "  - source_model: b\n    positive_prompts: [dbc]\n";
  MoePlan same = plan_moe(parse_moe_config(yaml, "c.yaml", false),
                          [&](const std::string& name) {
                            return ModelLocation{dir_ / name, {}};
                          },
                          {});
  const std::vector<Collision> found = build(same, {.out = dir_ / "out2"});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].layers.size(), 2u);
}

TEST_F(Build, MisfitsAreFoundBeforehand) {
  std::string config = testing::kTinyConfig;
  config.replace(config.find("\"num_hidden_layers\": 2"), 22, "\"num_hidden_layers\": 1");
  config.replace(config.find("1e-05"), 5, "1e-06");
  auto tensors = testing::tiny_tensors(7);
  std::erase_if(tensors,
                [](const auto& tensor) { return tensor.name.find("layers.1") != std::string::npos; });
  dir_.write("b/config.json", config);
  dir_.write("b/model.safetensors", testing::safetensors_bytes(tensors));
  EXPECT_NE(message_of("").find("num_hidden_layers differs: expert \"b\" has 1, the base \"base\" has 2"),
            std::string::npos);
  EXPECT_NE(message_of("architecture: qwen3\n").find("differs"), std::string::npos);
}

TEST_F(Build, WarningsDoNotStopIt) {
  std::string config = testing::kTinyConfig;
  config.replace(config.find("1e-05"), 5, "1e-06");
  dir_.write("b/config.json", config);
  const MoePlan moe = plan();
  ASSERT_EQ(moe.warnings.size(), 1u);
  EXPECT_NE(moe.warnings[0].find("rms_norm_eps differs"), std::string::npos);
}

TEST_F(Build, UnsupportedFamiliesAndSharedExperts) {
  EXPECT_NE(message_of("architecture: mixtrl\n").find("did you mean \"Mixtral\"?"), std::string::npos);
  EXPECT_NE(message_of("architecture: mixtral\nshared_experts:\n  - source_model: a\n")
                .find("Mixtral has no shared experts"),
            std::string::npos);
}

TEST_F(Build, BiasesAreNeverDropped) {
  auto tensors = testing::tiny_tensors(0);
  for (const char* which : {"q", "k", "v", "o"})
    for (int layer = 0; layer < 2; layer++) {
      const int64_t size = *which == 'k' || *which == 'v' ? 4 : 8;
      tensors.push_back({fmt::format("model.layers.{}.self_attn.{}_proj.bias", layer, which),
                         "F32",
                         {size},
                         testing::f32_bytes(size, 1)});
    }
  dir_.write("base/model.safetensors", testing::safetensors_bytes(tensors));
  EXPECT_NE(message_of("architecture: mixtral\n").find("q_proj.bias\", and Mixtral has no place for it"),
            std::string::npos);
}

TEST_F(Build, CardSurvivesHostileNames) {
  MoePlan moe = plan();
  moe.config.base_model = moe.config.experts[0].source_model = "x`]\n---\n# \"y\"";
  moe.config.yaml = "a: b # ```\n```\n";
  const std::string card = model_card(moe, "na\nme");
  EXPECT_NE(card.find("````yaml\n"), std::string::npos);
  EXPECT_NE(card.find("# na me\n"), std::string::npos);
  EXPECT_EQ(std::ranges::count(card, '\n') > 20, true);
  EXPECT_EQ(card.find("\n# \"y\""), std::string::npos);
}

TEST_F(Build, HubNamesBecomeLinksAndTags) {
  MoePlan moe = plan();
  auto opened = moe.opened.extract(moe.opened.begin());
  opened.key().hub_name = "org/name";
  moe.opened.insert(std::move(opened));
  const std::string card = model_card(moe, "m");
  EXPECT_NE(card.find("base_model:\n- \"org/name\"\nbase_model_relation: merge\n"), std::string::npos);
  EXPECT_NE(card.find("https://huggingface.co/org/name)"), std::string::npos);
}

TEST(OutputArchitectures, EveryFamilyIsComplete) {
  for (const OutputArchitecture* output : output_architectures()) {
    for (const std::string_view input : output->inputs) EXPECT_NE(find_architecture(input), nullptr) << input;
    EXPECT_FALSE(output->name.empty());
    EXPECT_NE(output->make_config, nullptr);
    ASSERT_NE(output->architecture->mixture, nullptr);
    for (const Role role : {Role::ffn_gate, Role::ffn_up, Role::ffn_down})
      EXPECT_NE(output->weight(role, 3, 5), output->weight(role, 3, 6));
    const StackedLayout& stacked = output->architecture->mixture->stacked;
    for (const std::string_view name : {stacked.router, stacked.gate_up, stacked.down})
      EXPECT_NE(fill_name(name, 3), fill_name(name, 4)) << name;
    EXPECT_NE(output->weight(Role::router, 3), output->weight(Role::router, 4));
  }
}

TEST(HumanCount, Units) {
  EXPECT_EQ(human_count(12), "12");
  EXPECT_EQ(human_count(1'000'000), "1.0M");
  EXPECT_EQ(human_count(24'153'690'112), "24.2B");
}

}  // namespace
}  // namespace moerge
