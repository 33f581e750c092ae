#include "moerge/model/gguf_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "moerge/base/error.h"
#include "moerge/model/gguf_rope.h"
#include "moerge/model/model.h"
#include "moerge/testing/tiny_gguf.h"

namespace moerge {
namespace {

using testing::TempDir;
using testing::TinyGgufTensor;

// A tiny model's GGUF file that a test may change before it is opened.
struct TinyGguf {
  GgufMetadata metadata = testing::tiny_gguf_metadata();
  std::vector<TinyGgufTensor> tensors = testing::tiny_gguf_tensors(1);

  std::filesystem::path write(const TempDir& dir) const {
    return dir.write("m.gguf", testing::gguf_bytes(metadata, tensors));
  }
  Model open(const TempDir& dir) const { return Model("m", {write(dir)}); }
  std::string message() const {
    const TempDir dir;
    try {
      open(dir);
    } catch (const Error& error) {
      EXPECT_TRUE(error.message().starts_with((dir / "m.gguf").string())) << error.message();
      return error.message();
    }
    return "";
  }
};

template <typename T>
TinyGguf with(std::string key, T value) {
  TinyGguf gguf;
  gguf.metadata.set(std::move(key), std::move(value));
  return gguf;
}
TinyGguf without(const std::string& key) {
  TinyGguf gguf;
  gguf.metadata.erase(key);
  return gguf;
}

#define EXPECT_REFUSED(gguf, sentence) \
  EXPECT_NE((gguf).message().find(sentence), std::string::npos) << (gguf).message()

std::string all_rows(const StoredTensor& tensor) {
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.spec.bytes()));
  read_rows(tensor, 0, tensor.rows(), bytes);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(GgufModel, IsTheFolderThatItWasMadeFrom) {
  const TempDir dir;
  const Model folder("folder", {testing::write_tiny_model(dir, "folder", 1)});
  const Model gguf = TinyGguf().open(dir);
  EXPECT_EQ(gguf.path, dir / "m.gguf");
  EXPECT_EQ(folder.gguf(), nullptr);
  ASSERT_NE(gguf.gguf(), nullptr);
  const ModelConfig &a = folder.config, &b = gguf.config;
  EXPECT_EQ(a.model_type, b.model_type);
  EXPECT_EQ(std::tuple(a.layers, a.hidden, a.ffn, a.heads, a.kv_heads, a.head_dim, a.vocab, a.max_positions),
            std::tuple(b.layers, b.hidden, b.ffn, b.heads, b.kv_heads, b.head_dim, b.vocab, b.max_positions));
  EXPECT_EQ(a.norm_epsilon, b.norm_epsilon);  // 1e-05 again, not the float32 next to it
  EXPECT_EQ(a.activation, b.activation);
  EXPECT_EQ(a.rope, b.rope);
  EXPECT_EQ(a.dtype, b.dtype);
  EXPECT_EQ(a.tied_embeddings, b.tied_embeddings);
  EXPECT_FALSE(b.explicit_head_dim);
  ASSERT_EQ(folder.checkpoint.tensors().size(), gguf.checkpoint.tensors().size());
  for (const StoredTensor& tensor : folder.checkpoint.tensors()) {
    const StoredTensor& other = gguf.checkpoint.at(tensor.spec.name);
    EXPECT_EQ(other.spec.shape, tensor.spec.shape);
    EXPECT_EQ(all_rows(other), all_rows(tensor)) << tensor.spec.name;
  }
  EXPECT_TRUE(check_weights(*gguf.architecture, gguf.config, gguf.checkpoint).errors.empty());
}

TEST(GgufModel, AFolderOfOneFileIsThatFile) {
  const TempDir dir;
  const std::filesystem::path file = TinyGguf().write(dir);
  EXPECT_EQ(Model("m", {dir.path()}).path, file);
}

TEST(GgufModel, EveryRoleHasAName) {
  for (const Architecture* family : architectures())
    for (const WeightTemplate& weight : family->weights) {
      EXPECT_EQ(gguf_weight_name(weight.role).empty(), weight.role == Role::ignored);
      EXPECT_EQ(gguf_weight_name(weight.role).find("{}") != std::string_view::npos,
                is_per_layer(weight.role) && weight.role != Role::ignored);
    }
}

TEST(GgufModel, TypeOfTheMatricesIsTheDtype) {
  const auto dtype_with = [](DType dtype) {
    TinyGguf gguf;
    for (TinyGgufTensor& tensor : gguf.tensors)
      if (tensor.spec.shape.size() == 2) {
        tensor.spec = {tensor.spec.name, dtype, {tensor.spec.shape[0], 256}};  // shapes are checked later
        tensor.bytes.assign(static_cast<size_t>(tensor.spec.bytes()), '\0');
      }
    const TempDir dir;
    return gguf.open(dir).config.dtype;
  };
  EXPECT_EQ(dtype_with(DType::f32), DType::f32);
  EXPECT_EQ(dtype_with(DType::f16), DType::f16);
  EXPECT_EQ(dtype_with(DType::bf16), DType::bf16);
  EXPECT_EQ(dtype_with(DType::q4_k), DType::f16);
  TinyGguf mixed;
  mixed.tensors[0].spec.dtype = DType::bf16;
  const TempDir dir;
  EXPECT_EQ(mixed.open(dir).config.dtype, DType::f32);
}

TEST(GgufModel, OptionalKeys) {
  const TempDir dir;
  TinyGguf gguf;
  for (const char* key : {"llama.attention.head_count_kv", "llama.rope.freq_base", "llama.vocab_size",
                          "llama.rope.dimension_count", "general.type"})
    gguf.metadata.erase(key);
  gguf.metadata.set("tokenizer.ggml.eos_token_id", uint32_t{7});
  gguf.metadata.set("tokenizer.ggml.padding_token_id", uint32_t{4'000'000'000});
  const Json json = gguf.open(dir).config.raw;
  EXPECT_EQ(json["num_key_value_heads"], 2);
  EXPECT_EQ(json["rope_theta"], 10000.0);
  EXPECT_EQ(json["bos_token_id"], 0);
  EXPECT_EQ(json["eos_token_id"], 7);
  EXPECT_FALSE(json.contains("pad_token_id"));  // outside the vocabulary: none
}

TEST(GgufModel, HeadsOfAnotherSizeAreStated) {
  TinyGguf gguf = with("llama.attention.key_length", uint32_t{6});
  gguf.metadata.erase("llama.rope.dimension_count");
  const TempDir dir;
  // The rows of k and q must be heads of some size; that they are not 6 rows each is found with the shapes.
  const Model model = gguf.open(dir);
  EXPECT_EQ(model.config.head_dim, 6);
  EXPECT_TRUE(model.config.explicit_head_dim);
  const WeightReport report = check_weights(*model.architecture, model.config, model.checkpoint);
  ASSERT_FALSE(report.errors.empty());
  EXPECT_NE(report.errors[0].find("q_proj.weight\" is [8, 8], its metadata says [12, 8]"), std::string::npos)
      << report.errors[0];
}

TEST(GgufModel, TiedEmbeddingsAndBiasesFollowFromTheTensors) {
  TinyGguf gguf;
  std::erase_if(gguf.tensors, [](const TinyGgufTensor& t) { return t.spec.name == "output.weight"; });
  for (const int64_t layer : {0, 1})
    gguf.tensors.push_back({{fmt::format("blk.{}.attn_q.bias", layer), DType::f32, {8}},
                            testing::rotary_rows(testing::f32_bytes(8, 5), 8, 2)});
  const TempDir dir;
  const Model model = gguf.open(dir);
  EXPECT_TRUE(model.config.tied_embeddings);
  EXPECT_TRUE(model.config.attention_bias);
  EXPECT_EQ(all_rows(model.tensor(Role::q_bias, 1)), testing::f32_bytes(8, 5));
}

TEST(GgufModel, RefusesWhatCannotBeAnExpert) {
  EXPECT_REFUSED(with("general.type", std::string("adapter")),
                 "of type \"adapter\", and a model is expected");
  EXPECT_REFUSED(without("general.architecture"), "lacks \"general.architecture\"");
  EXPECT_REFUSED(with("general.architecture", std::string("gemma3")),
                 "model_type \"gemma3\" is not supported (supported: llama, mistral, ");
  EXPECT_REFUSED(with("llama.expert_count", uint32_t{8}), "lacks \"llama.expert_used_count\"");
  TinyGguf dense_tensors = with("llama.expert_count", uint32_t{8});
  dense_tensors.metadata.set("llama.expert_used_count", uint32_t{2});
  EXPECT_REFUSED(dense_tensors, "\"blk.0.ffn_gate.weight\" is not part of a mixtral model");
  EXPECT_EQ(with("llama.expert_count", uint32_t{0}).message(), "");
  EXPECT_REFUSED(with("llama.attention.causal", false), "not a language model");
  EXPECT_REFUSED(with("llama.rope.dimension_count", uint32_t{2}), "is not the size of a key, 4");
  EXPECT_REFUSED(with("llama.attention.value_length", uint32_t{8}), "is not the size of a key, 4");
}

TEST(GgufModel, RefusesDamagedMetadata) {
  for (const char* key :
       {"llama.block_count", "llama.context_length", "llama.embedding_length", "llama.feed_forward_length",
        "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon"}) {
    EXPECT_REFUSED(without(key), fmt::format("its metadata lacks \"{}\"", key));
    EXPECT_REFUSED(with(key, std::string("8")), fmt::format("\"{}\" should be", key));
    EXPECT_REFUSED(with(key, std::vector<uint32_t>{8, 8}), "a list, one for each layer, is not supported");
  }
  for (const int64_t value : {int64_t{0}, int64_t{-8}, INT64_MAX, INT64_MIN}) {
    EXPECT_REFUSED(with("llama.embedding_length", value), fmt::format("is {}, expected 1 to", value));
    EXPECT_REFUSED(with("llama.attention.key_length", value), fmt::format("is {}, expected 1 to", value));
    EXPECT_REFUSED(with("llama.attention.head_count_kv", value), fmt::format("is {}, expected 1 to", value));
  }
  EXPECT_REFUSED(with("llama.block_count", uint32_t{1'000'000}), "\"num_hidden_layers\" is 1000000");
  EXPECT_REFUSED(with("llama.attention.head_count", uint32_t{5}), "\"llama.rope.dimension_count\" is not");
  EXPECT_REFUSED(with("llama.attention.layer_norm_rms_epsilon", NAN), "is nan");
  EXPECT_REFUSED(with("llama.rope.freq_base", INFINITY), "is inf");
  EXPECT_REFUSED(with("llama.rope.freq_base", -1.0f), "\"rope_theta\" is -1");
}

TEST(GgufModel, RefusesStrangeTensors) {
  for (const char* name :
       {"blk.0.attn_qkv.weight", "blk.2.attn_q.weight", "blk.00.attn_q.weight", "blk..attn_q.weight",
        "blk.-1.attn_q.weight", "blk.99999999999999999999.attn_q.weight", "output.bias",
        "blk.0.attn_q.weight.scale", "model.norm.weight"}) {
    TinyGguf gguf;
    gguf.tensors.push_back({{name, DType::f32, {8, 8}}, std::string(256, '\0')});
    EXPECT_REFUSED(gguf, fmt::format("tensor \"{}\" is not part of a llama model", name));
  }
  TinyGguf headless;
  std::erase_if(headless.tensors, [](const TinyGgufTensor& t) { return t.spec.name == "token_embd.weight"; });
  EXPECT_REFUSED(headless, "no matrix \"token_embd.weight\" in it");
  TinyGguf narrow;
  narrow.tensors[2].spec.shape = {6, 8};
  narrow.tensors[2].bytes.resize(192);
  EXPECT_REFUSED(narrow, "\"blk.0.attn_q.weight\" [6, 8] does not consist of 2 heads");
}

// -------- other families

// The tiny model's file as one of another family: rows of q and k in the model's order.
TinyGguf of_family(const std::string& name) {
  TinyGguf gguf;
  GgufMetadata metadata;
  for (const auto& [key, value] : gguf.metadata.entries())
    metadata.set(key.starts_with("llama.") ? name + key.substr(5) : key, value);
  metadata.set("general.architecture", name);
  gguf.metadata = std::move(metadata);
  const std::vector<testing::TinyTensor> plain = testing::tiny_tensors(1);
  for (size_t i = 0; i < plain.size(); i++) gguf.tensors[i].bytes = plain[i].bytes;
  return gguf;
}

void add(TinyGguf& gguf, const std::string& name, const Shape& shape, int seed) {
  gguf.tensors.push_back({{name, DType::f32, shape}, testing::f32_bytes(element_count(shape), seed)});
}

TEST(GgufModel, Qwen2) {
  TinyGguf gguf = of_family("qwen2");
  for (const int64_t layer : {0, 1})
    for (const auto& [letter, rows] : {std::pair("q", 8), std::pair("k", 4), std::pair("v", 4)})
      add(gguf, fmt::format("blk.{}.attn_{}.bias", layer, letter), {rows}, rows);
  std::erase_if(gguf.tensors, [](const TinyGgufTensor& t) { return t.spec.name == "output.weight"; });
  const TempDir dir;
  const Model model = gguf.open(dir);
  EXPECT_EQ(model.config.model_type, "qwen2");
  EXPECT_TRUE(model.config.tied_embeddings);
  EXPECT_FALSE(model.config.sliding_window);
  EXPECT_EQ(model.config.head_dim, 4);
  EXPECT_EQ(model.config.norm_epsilon, 1e-5);
  EXPECT_TRUE(check_weights(*model.architecture, model.config, model.checkpoint).errors.empty());
  EXPECT_EQ(all_rows(model.tensor(Role::k_bias, 1)), testing::f32_bytes(4, 4));
  EXPECT_EQ(all_rows(model.tensor(Role::q, 0)), testing::tiny_tensors(1)[2].bytes);
  EXPECT_EQ(all_rows(model.tensor(Role::ffn_down, 1)), testing::tiny_tensors(1)[18].bytes);
}

TEST(GgufModel, Qwen3) {
  TinyGguf gguf = of_family("qwen3");
  for (const int64_t layer : {0, 1})
    for (const char* letter : {"q", "k"})
      add(gguf, fmt::format("blk.{}.attn_{}_norm.weight", layer, letter), {4}, static_cast<int>(layer));
  const TempDir dir;
  const Model model = gguf.open(dir);
  EXPECT_EQ(model.config.model_type, "qwen3");
  EXPECT_EQ(model.config.head_dim, 4);  // stated, since the class's default is 128
  EXPECT_TRUE(check_weights(*model.architecture, model.config, model.checkpoint).errors.empty());
  EXPECT_EQ(all_rows(model.tensor(Role::k_norm, 1)), testing::f32_bytes(4, 1));
  EXPECT_EQ(all_rows(model.tensor(Role::k, 0)), testing::tiny_tensors(1)[3].bytes);
}

// -------- mixtures

TinyGguf mixture(const std::string& name, int64_t experts, bool per_expert = false) {
  TinyGguf gguf = name == "llama" ? TinyGguf() : of_family(name);
  std::erase_if(gguf.tensors, [](const TinyGgufTensor& t) {
    return t.spec.name.find("ffn_") != std::string::npos && t.spec.name.find("ffn_norm") == std::string::npos;
  });
  gguf.metadata.set(name + ".expert_count", static_cast<uint32_t>(experts));
  gguf.metadata.set(name + ".expert_used_count", uint32_t{1});
  if (name != "llama") gguf.metadata.set(name + ".expert_feed_forward_length", uint32_t{6});
  const int64_t ffn = name == "llama" ? 12 : 6;
  for (const int64_t layer : {0, 1}) {
    add(gguf, fmt::format("blk.{}.ffn_gate_inp.weight", layer), {experts, 8}, 77);
    for (const char* matrix : {"gate", "up", "down"}) {
      const Shape one = std::string_view(matrix) == "down" ? Shape{8, ffn} : Shape{ffn, 8};
      if (per_expert)
        for (int64_t e = 0; e < experts; e++)
          add(gguf, fmt::format("blk.{}.ffn_{}.{}.weight", layer, matrix, e), one, static_cast<int>(e));
      else
        add(gguf, fmt::format("blk.{}.ffn_{}_exps.weight", layer, matrix), {experts, one[0], one[1]},
            static_cast<int>(layer));
    }
  }
  return gguf;
}

TEST(GgufMixture, StacksAreSplit) {
  const TempDir dir;
  const Model model = mixture("llama", 3).open(dir);
  EXPECT_EQ(model.config.model_type, "mixtral");
  EXPECT_EQ(model.config.experts, 3);
  EXPECT_EQ(model.config.experts_per_token, 1);
  EXPECT_EQ(model.config.dtype, DType::f32);
  EXPECT_TRUE(check_weights(*model.architecture, model.config, model.checkpoint).errors.empty());
  const std::string stack = testing::f32_bytes(3 * 12 * 8, 1);
  for (int64_t e = 0; e < 3; e++) {
    EXPECT_EQ(all_rows(model.tensor(Role::ffn_up, 1, e)), stack.substr(static_cast<size_t>(e) * 384, 384));
    EXPECT_EQ(model.tensor(Role::ffn_down, 1, e).spec.shape, (Shape{8, 12}));
  }
  EXPECT_EQ(model.tensor(Role::q, 0).rotary_heads, 2);
  EXPECT_EQ(model.checkpoint.find("blk.0.ffn_up_exps.weight"), nullptr);
}

TEST(GgufMixture, QuantisedStacksAreSplitBetweenBlocks) {
  TinyGguf gguf = mixture("llama", 2);
  gguf.metadata.set("llama.feed_forward_length", uint32_t{64});
  for (TinyGgufTensor& tensor : gguf.tensors) {
    if (tensor.spec.name.find("_exps") == std::string::npos) continue;
    const bool down = tensor.spec.name.find("down") != std::string::npos;
    tensor.spec = {tensor.spec.name, down ? DType::q8_0 : DType::f32,
                   down ? Shape{2, 8, 64} : Shape{2, 64, 8}};
    tensor.bytes.clear();
    for (int64_t i = 0; i < tensor.spec.bytes(); i++) tensor.bytes += static_cast<char>(i % 251);
  }
  const TempDir dir;
  const Model model = gguf.open(dir);
  EXPECT_EQ(model.config.dtype, DType::f16);
  const StoredTensor& second = model.tensor(Role::ffn_down, 0, 1);
  EXPECT_EQ(second.spec.bytes(), 8 * 2 * 34);
  EXPECT_EQ(second.stored_bytes()[0], std::byte(8 * 2 * 34 % 251));
  EXPECT_TRUE(check_weights(*model.architecture, model.config, model.checkpoint).errors.empty());
}

TEST(GgufMixture, OneTensorAnExpert) {
  const TempDir dir;
  const Model model = mixture("llama", 12, true).open(dir);
  EXPECT_TRUE(check_weights(*model.architecture, model.config, model.checkpoint).errors.empty());
  EXPECT_EQ(all_rows(model.tensor(Role::ffn_gate, 0, 11)), testing::f32_bytes(96, 11));
  TinyGguf beyond = mixture("llama", 2, true);
  add(beyond, "blk.0.ffn_gate.2.weight", {12, 8}, 0);
  EXPECT_REFUSED(beyond, "\"blk.0.ffn_gate.2.weight\" is not part of a mixtral model");
  TinyGguf both = mixture("llama", 2);
  add(both, "blk.1.ffn_gate.0.weight", {12, 8}, 0);
  EXPECT_REFUSED(both, "expert 0 of layer 1 is there twice, in \"blk.1.ffn_gate_exps.weight\" and in \"");
}

TEST(GgufMixture, AStackOfOneMayBeAMatrix) {
  TinyGguf gguf = mixture("llama", 1);
  for (TinyGgufTensor& tensor : gguf.tensors)
    if (tensor.spec.shape.size() == 3) tensor.spec.shape.erase(tensor.spec.shape.begin());
  const TempDir dir;
  EXPECT_EQ(gguf.open(dir).tensor(Role::ffn_down, 1, 0).spec.shape, (Shape{8, 12}));
}

TEST(GgufMixture, QwenWithASharedExpert) {
  TinyGguf gguf = mixture("qwen2moe", 2);
  gguf.metadata.set("qwen2moe.expert_shared_feed_forward_length", uint32_t{10});
  for (const int64_t layer : {0, 1}) {
    for (const auto& [letter, rows] : {std::pair("q", 8), std::pair("k", 4), std::pair("v", 4)})
      add(gguf, fmt::format("blk.{}.attn_{}.bias", layer, letter), {rows}, rows);
    add(gguf, fmt::format("blk.{}.ffn_gate_shexp.weight", layer), {10, 8}, 1);
    add(gguf, fmt::format("blk.{}.ffn_up_shexp.weight", layer), {10, 8}, 2);
    add(gguf, fmt::format("blk.{}.ffn_down_shexp.weight", layer), {8, 10}, 3);
    add(gguf, fmt::format("blk.{}.ffn_gate_inp_shexp.weight", layer), {8}, 4);
  }
  const TempDir dir;
  const Model model = gguf.open(dir);
  EXPECT_EQ(model.config.ffn, 6);
  EXPECT_EQ(model.config.shared_ffn, 10);
  EXPECT_FALSE(model.config.normalised);
  EXPECT_EQ(model.tensor(Role::shared_router, 1).spec.shape, (Shape{1, 8}));
  const WeightReport report = check_weights(*model.architecture, model.config, model.checkpoint);
  EXPECT_TRUE(report.errors.empty()) << report.errors[0];
  gguf.metadata.erase("qwen2moe.expert_feed_forward_length");
  EXPECT_EQ(gguf_config_json(open_gguf(gguf.write(dir)))["moe_intermediate_size"], 12);  // 12 / 1 per token
}

TEST(GgufMixture, Refusals) {
  const auto changed = [](const std::string& name, const std::string& key, uint32_t value) {
    TinyGguf gguf = mixture(name, 2);
    gguf.metadata.set(name + "." + key, value);
    return gguf;
  };
  EXPECT_REFUSED(changed("deepseek", "leading_dense_block_count", 1), "dense layers in between");
  EXPECT_REFUSED(changed("llama", "expert_group_count", 4), "experts in groups are not supported");
  EXPECT_REFUSED(changed("qwen3moe", "expert_gating_func", 2), "only a softmax");
  EXPECT_REFUSED(changed("qwen3moe", "expert_count", 0), "and this family has only mixtures");
  EXPECT_REFUSED(changed("llama", "expert_count", 3),
                 "\"blk.0.ffn_gate_exps.weight\" is [2, 12, 8], its metadata says [3, 12, 8]");
  EXPECT_REFUSED(changed("llama", "expert_used_count", 3), "\"num_experts_per_tok\" is 3, and there are 2");
  TinyGguf qwen = of_family("qwen2");
  qwen.metadata.set("qwen2.expert_count", uint32_t{2});
  EXPECT_REFUSED(qwen, "\"qwen2.expert_count\" is 2, and this family has no mixtures");
  TinyGguf late = mixture("llama", 2);
  add(late, "blk.2.ffn_up_exps.weight", {2, 12, 8}, 0);
  EXPECT_REFUSED(late, "\"blk.2.ffn_up_exps.weight\" is not part of a mixtral model");
}

// -------- rope scaling

Json scaling_of(const TinyGguf& gguf) {
  const TempDir dir;
  return gguf.open(dir).config.rope.scaling;
}

TEST(GgufRope, LinearAndYarn) {
  EXPECT_TRUE(scaling_of(TinyGguf()).is_null());
  EXPECT_TRUE(scaling_of(with("llama.rope.scaling.type", std::string("none"))).is_null());
  const Json linear = {{"factor", 2.5}, {"rope_type", "linear"}};
  EXPECT_EQ(scaling_of(with("llama.rope.scaling.factor", 2.5f)), linear);  // llama.cpp's default type
  EXPECT_EQ(scaling_of(with("llama.rope.scale_linear", 2.5f)), linear);
  TinyGguf yarn = with("llama.rope.scaling.factor", 4.0f);
  yarn.metadata.set("llama.rope.scaling.type", std::string("yarn"));
  yarn.metadata.set("llama.rope.scaling.original_context_length", uint32_t{32});
  yarn.metadata.set("llama.rope.scaling.yarn_beta_fast", 0.1f);
  const Json expected = {
      {"factor", 4.0}, {"original_max_position_embeddings", 32}, {"beta_fast", 0.1}, {"rope_type", "yarn"}};
  EXPECT_EQ(scaling_of(yarn), expected);
  yarn.metadata.set("llama.rope.scaling.yarn_ext_factor", 0.5f);
  EXPECT_REFUSED(yarn, "yarn_ext_factor\" is not 1");
  EXPECT_REFUSED(with("llama.rope.scaling.type", std::string("longrope")),
                 "is \"longrope\", which is not supported");
  EXPECT_REFUSED(with("llama.rope.scaling.factor", -2.0f), "is negative");
  TinyGguf longrope;
  longrope.tensors.push_back({{"rope_factors_long.weight", DType::f32, {2}}, std::string(8, '\0')});
  EXPECT_REFUSED(longrope, "longrope");
}

// What the converter stores (conversion/llama.py, generate_extra_tensors), in its float32.
std::vector<float> divisors(size_t count, float theta, float factor, float low, float high, float length) {
  std::vector<float> out;
  for (size_t i = 0; i < count; i++) {
    const float frequency = 1.0f / std::pow(theta, static_cast<float>(2 * i) / static_cast<float>(2 * count));
    const float wavelength = 2 * std::numbers::pi_v<float> / frequency;
    if (wavelength < length / high) {
      out.push_back(1);
    } else if (wavelength > length / low) {
      out.push_back(factor);
    } else {
      const float smooth = (length / wavelength - low) / (high - low);
      out.push_back(1 / ((1 - smooth) / factor + smooth));
    }
  }
  return out;
}

TEST(GgufRope, Llama3ComesBackFromItsDivisors) {
  struct Case {
    float theta, factor, high, length;
  };
  for (const Case& c : {Case{500000, 8, 4, 8192}, Case{500000, 32, 4, 8192}, Case{500000, 16, 4, 4096},
                        Case{1e6, 8, 8, 8192}, Case{10000, 2.5, 2, 3000}})
    for (const size_t count : {32, 64, 128}) {
      const auto scaling = llama3_scaling(divisors(count, c.theta, c.factor, 1, c.high, c.length), c.theta);
      ASSERT_TRUE(scaling) << c.theta << " " << c.factor << " " << count;
      const Json expected = {{"factor", c.factor},
                             {"high_freq_factor", c.high},
                             {"low_freq_factor", 1.0},
                             {"original_max_position_embeddings", static_cast<int64_t>(c.length)},
                             {"rope_type", "llama3"}};
      EXPECT_EQ(*scaling, expected);
    }
  // Twice the length and both factors mean the same.
  EXPECT_EQ((*llama3_scaling(divisors(64, 5e5, 8, 2, 8, 16384), 5e5))["original_max_position_embeddings"],
            8192);
}

TEST(GgufRope, OtherDivisorsAreRefused) {
  EXPECT_TRUE(llama3_scaling(std::vector<float>(64, 1.0f), 10000)->is_null());
  std::vector<float> odd = divisors(64, 500000, 8, 1, 4, 8192);
  odd[40] *= 1.001f;
  EXPECT_FALSE(llama3_scaling(odd, 500000));
  EXPECT_FALSE(llama3_scaling(divisors(64, 500000, 8, 1, 4, 8192), 10000));  // of another theta
  for (const float bad : {0.0f, -1.0f, NAN, INFINITY})
    EXPECT_FALSE(llama3_scaling(std::vector<float>{1, bad, 8, 8}, 500000));
  EXPECT_FALSE(llama3_scaling({}, 500000));
}

TEST(GgufRope, DivisorsInAFile) {
  const auto with_divisors = [](const std::vector<float>& values, DType dtype = DType::f32) {
    TinyGguf gguf;
    std::string bytes(values.size() * 4, '\0');
    std::memcpy(bytes.data(), values.data(), bytes.size());
    gguf.tensors.push_back({{"rope_freqs.weight", dtype, {std::ssize(values)}}, bytes});
    return gguf;
  };
  EXPECT_EQ(scaling_of(with_divisors(divisors(2, 10000, 8, 1, 4, 64)))["rope_type"], "llama3");
  EXPECT_TRUE(scaling_of(with_divisors({1, 1})).is_null());
  EXPECT_REFUSED(with_divisors({1, 8, 8}), "is float32 [3], float32 [2] is expected");
  EXPECT_REFUSED(with_divisors({1, 8}, DType::i32), "is int32 [2]");
  EXPECT_REFUSED(with_divisors({8, 1}), "no rope_scaling of type llama3 gives");
  TinyGguf both = with_divisors({1, 8});
  both.metadata.set("llama.rope.scaling.factor", 2.0f);
  EXPECT_REFUSED(both, "no rope_scaling");
  TinyGguf plain = with_divisors({1, 1});
  plain.metadata.set("llama.rope.scaling.factor", 2.0f);
  EXPECT_EQ(scaling_of(plain)["factor"], 2.0);
}

}  // namespace
}  // namespace moerge
