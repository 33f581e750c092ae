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
      if (family->mixture) continue;
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
  EXPECT_REFUSED(with("llama.expert_count", uint32_t{8}), "a mixture of 8 experts already");
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
