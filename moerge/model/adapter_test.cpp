#include "moerge/model/adapter.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/model/model.h"
#include "moerge/tensor/convert.h"
#include "moerge/testing/tiny_gguf.h"

namespace moerge {
namespace {

using testing::f32_bytes;
using testing::TempDir;
using testing::TinyTensor;

constexpr const char* kUp = "model.layers.0.mlp.up_proj";  // [12, 8]
constexpr const char* kEmbedding = "model.embed_tokens";   // [16, 8]

std::vector<float> floats(const std::string& bytes) {
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::vector<float> values_of(const StoredTensor& tensor) {
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.spec.bytes()));
  std::vector<float> values(static_cast<size_t>(tensor.spec.elements()));
  read_rows(tensor, 0, tensor.rows(), bytes);
  to_f32(tensor.spec.dtype, bytes, values);
  return values;
}

class Adapted : public ::testing::Test {
 protected:
  void add(const std::string& name, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (const int64_t n : shape) count *= n;
    tensors_.push_back({"base_model.model." + name, "F32", std::move(shape),
                        f32_bytes(count, 1000 + static_cast<int>(tensors_.size()))});
  }
  void add_product(const std::string& module, int64_t rank, int64_t out, int64_t in) {
    add(module + ".lora_A.weight", {rank, in});
    add(module + ".lora_B.weight", {out, rank});
  }

  /// The tiny model (of tensors_of(seed 1)) with this adapter.
  Model open(const std::string& members = "", const char* config = testing::kTinyConfig) {
    if (base_.empty()) base_ = testing::write_tiny_model(dir_, "base", 1);
    dir_.write("base/config.json", config);
    return open_on(base_, members);
  }
  Model open_on(const std::filesystem::path& base, const std::string& members = "") {
    dir_.write("lora/adapter_config.json",
               R"({"peft_type": "LORA", "r": 2, "lora_alpha": 6)" + members + "}");
    dir_.write("lora/adapter_model.safetensors", testing::safetensors_bytes(tensors_));
    return Model("m", {.path = base, .adapter = dir_ / "lora"});
  }
  std::string message_of(const std::string& members = "", const char* config = testing::kTinyConfig) {
    try {
      open(members, config);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  static std::vector<float> base_values(const std::string& name) {
    for (const TinyTensor& tensor : testing::tiny_tensors(1))
      if (tensor.name == name) return floats(tensor.bytes);
    return {};
  }
  std::vector<float> adapter_values(const std::string& name) const {
    for (const TinyTensor& tensor : tensors_)
      if (tensor.name == "base_model.model." + name) return floats(tensor.bytes);
    return {};
  }
  // W + scale B A of a module, in double.
  std::vector<double> merged(const std::string& module, size_t rank, double scale) const {
    const std::vector<float> w = base_values(module + ".weight"),
                             a = adapter_values(module + ".lora_A.weight"),
                             b = adapter_values(module + ".lora_B.weight");
    const size_t columns = a.size() / rank;
    std::vector<double> out(w.begin(), w.end());
    for (size_t i = 0; i < out.size(); i++)
      for (size_t k = 0; k < rank; k++)
        out[i] += scale * b[i / columns * rank + k] * a[k * columns + i % columns];
    return out;
  }
  static void expect_near(const std::vector<float>& found, const std::vector<double>& expected,
                          double error) {
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); i++) ASSERT_NEAR(found[i], expected[i], error) << i;
  }

  TempDir dir_;
  std::filesystem::path base_;
  std::vector<TinyTensor> tensors_;
};

TEST_F(Adapted, ProductsAreAddedAndTheRestIsLeftAlone) {
  add_product(kUp, 2, 12, 8);
  const Model model = open();
  const StoredTensor& up = model.checkpoint.at(std::string(kUp) + ".weight");
  EXPECT_FALSE(up.is_plain());
  expect_near(values_of(up), merged(kUp, 2, 3), 1e-7);
  for (const StoredTensor& tensor : model.checkpoint.tensors())
    EXPECT_EQ(tensor.is_plain(), &tensor != &up) << tensor.spec.name;
  // Any rows, as a whole reading gives them.
  std::vector<std::byte> all(static_cast<size_t>(up.spec.bytes())),
      some(static_cast<size_t>(3 * up.row_bytes()));
  read_rows(up, 0, 12, all);
  read_rows(up, 5, 3, some);
  EXPECT_TRUE(
      std::ranges::equal(some, std::span(all).subspan(static_cast<size_t>(5 * up.row_bytes()), some.size())));
}

TEST_F(Adapted, PatternsAndNamesOfOlderFiles) {
  add("model.layers.1.self_attn.k_proj.lora_A.default.weight", {4, 8});
  add("model.layers.1.self_attn.k_proj.lora_B.default.weight", {4, 4});
  const Model model = open(R"(, "rank_pattern": {"k_proj": 4}, "alpha_pattern": {"self_attn.k_proj": 2})");
  tensors_[0].name = "base_model.model.model.layers.1.self_attn.k_proj.lora_A.weight";
  tensors_[1].name = "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight";
  expect_near(values_of(model.checkpoint.at("model.layers.1.self_attn.k_proj.weight")),
              merged("model.layers.1.self_attn.k_proj", 4, 0.5), 1e-7);
}

TEST_F(Adapted, EmbeddingsTakeTheProductTransposed) {
  add(std::string(kEmbedding) + ".lora_embedding_A", {2, 16});
  add(std::string(kEmbedding) + ".lora_embedding_B", {8, 2});
  const Model model = open();
  const std::vector<float> a = floats(tensors_[0].bytes), b = floats(tensors_[1].bytes);
  const std::vector<float> w = base_values(std::string(kEmbedding) + ".weight");
  std::vector<double> expected(w.begin(), w.end());
  for (size_t v = 0; v < 16; v++)
    for (size_t h = 0; h < 8; h++)
      for (size_t k = 0; k < 2; k++) expected[v * 8 + h] += 3.0 * a[k * 16 + v] * b[h * 2 + k];
  expect_near(values_of(model.tensor(Role::embedding)), expected, 1e-7);
}

TEST_F(Adapted, WholeModulesReplace) {
  add("model.norm.weight", {8});
  add("lm_head.modules_to_save.default.weight", {16, 8});
  add(std::string(kUp) + ".base_layer.weight", {12, 8});
  const Model model = open(R"(, "modules_to_save": ["norm", "lm_head"])");
  EXPECT_EQ(values_of(model.tensor(Role::output_norm)), floats(tensors_[0].bytes));
  EXPECT_EQ(values_of(model.tensor(Role::output)), floats(tensors_[1].bytes));
  EXPECT_EQ(values_of(model.checkpoint.at(std::string(kUp) + ".weight")), floats(tensors_[2].bytes));
  EXPECT_EQ(place_of(model.tensor(Role::output)), dir_ / "lora");
}

TEST_F(Adapted, RowsOfTokensReplace) {
  add(std::string(kEmbedding) + ".token_adapter.trainable_tokens_delta", {3, 8});
  const Model model = open(R"(, "trainable_token_indices": {"embed_tokens": [15, 2, 7]})");
  const std::vector<float> found = values_of(model.tensor(Role::embedding)), rows = floats(tensors_[0].bytes);
  std::vector<float> expected = base_values(std::string(kEmbedding) + ".weight");
  std::copy_n(rows.begin(), 8, expected.begin() + 15 * 8);
  std::copy_n(rows.begin() + 8, 8, expected.begin() + 2 * 8);
  std::copy_n(rows.begin() + 16, 8, expected.begin() + 7 * 8);
  EXPECT_EQ(found, expected);
}

// -------- tied embeddings: the base has no lm_head

class Tied : public Adapted {
 protected:
  Tied() {
    base_ = testing::write_tiny_model(dir_, "base", 1);
    std::vector<TinyTensor> tensors = testing::tiny_tensors(1);
    std::erase_if(tensors, [](const TinyTensor& tensor) { return tensor.name == "lm_head.weight"; });
    dir_.write("base/model.safetensors", testing::safetensors_bytes(tensors));
    config_.insert(config_.rfind('}'), ", \"tie_word_embeddings\": true");
  }
  std::string config_ = testing::kTinyConfig;
};

TEST_F(Tied, AHeadOfItsOwnUnties) {
  add("lm_head.weight", {16, 8});
  const Model model = open(R"(, "modules_to_save": ["lm_head"])", config_.c_str());
  EXPECT_FALSE(model.config.tied_embeddings);
  EXPECT_EQ(model.config.raw["tie_word_embeddings"], false);
  EXPECT_EQ(values_of(model.tensor(Role::output)), floats(tensors_[0].bytes));
  EXPECT_EQ(values_of(model.tensor(Role::embedding)), base_values("model.embed_tokens.weight"));
}

TEST_F(Tied, EmbeddingsOfTheirOwnUntieUnlessTheyShallNot) {
  add("model.embed_tokens.weight", {16, 8});
  const Model apart = open(R"(, "modules_to_save": ["embed_tokens"])", config_.c_str());
  EXPECT_FALSE(apart.config.tied_embeddings);
  EXPECT_EQ(values_of(apart.tensor(Role::output)), base_values("model.embed_tokens.weight"));
  EXPECT_EQ(values_of(apart.tensor(Role::embedding)), floats(tensors_[0].bytes));
  add("lm_head.weight", {16, 8});
  const Model tied =
      open(R"(, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": true)", config_.c_str());
  EXPECT_TRUE(tied.config.tied_embeddings);
  EXPECT_EQ(tied.checkpoint.find("lm_head.weight"), nullptr);
  EXPECT_EQ(values_of(tied.tensor(Role::embedding)), floats(tensors_[0].bytes));
}

// PEFT saves the base's matrices along when embeddings are adapted: twice the same one.
TEST_F(Tied, AdaptedEmbeddingsStayTied) {
  add("model.embed_tokens.lora_embedding_A", {2, 16});
  add("model.embed_tokens.lora_embedding_B", {8, 2});
  add("model.embed_tokens.base_layer.weight", {16, 8});
  add("lm_head.weight", {16, 8});
  const Model model = open("", config_.c_str());
  EXPECT_TRUE(model.config.tied_embeddings);
  EXPECT_EQ(model.checkpoint.find("lm_head.weight"), nullptr);
}

TEST_F(Tied, AProductForTheHeadIsRefused) {
  add_product("lm_head", 2, 16, 8);
  EXPECT_NE(message_of("", config_.c_str()).find("the model's embeddings are tied"), std::string::npos);
}

// -------- GGUF

TEST_F(Adapted, OnAGgufRowsAreInTheModelsOrder) {
  dir_.write("m.gguf", testing::gguf_bytes(testing::tiny_gguf_metadata(), testing::tiny_gguf_tensors(1)));
  add_product("model.layers.0.self_attn.q_proj", 2, 8, 8);
  const Model model = open_on(dir_ / "m.gguf");
  const StoredTensor& q = model.tensor(Role::q, 0);
  EXPECT_EQ(q.rotary_heads, 0);
  expect_near(values_of(q), merged("model.layers.0.self_attn.q_proj", 2, 3), 1e-7);
}

TEST_F(Adapted, OnBlockTypesTheModelsTypeComesOut) {
  std::vector<testing::TinyGgufTensor> tensors = testing::tiny_gguf_tensors(1);
  GgufMetadata metadata = testing::tiny_gguf_metadata();
  metadata.set("llama.feed_forward_length", uint32_t{32});
  for (testing::TinyGgufTensor& tensor : tensors) {
    if (tensor.spec.name.find("ffn_gate") != std::string::npos ||
        tensor.spec.name.find("ffn_up") != std::string::npos)
      tensor = {{tensor.spec.name, DType::f32, {32, 8}}, f32_bytes(32 * 8, 5)};
    if (tensor.spec.name.find("ffn_down") != std::string::npos)  // zeros: a scale and 32 numbers a block
      tensor = {{tensor.spec.name, DType::q8_0, {8, 32}}, std::string(8 * 34, '\0')};
  }
  dir_.write("m.gguf", testing::gguf_bytes(metadata, tensors));
  add_product("model.layers.0.mlp.down_proj", 2, 8, 32);
  const Model model = open_on(dir_ / "m.gguf");
  const StoredTensor& down = model.tensor(Role::ffn_down, 0);
  EXPECT_EQ(down.spec.dtype, model.config.dtype);
  EXPECT_TRUE(is_weight_type(down.spec.dtype));
  EXPECT_NE(down.derivation->how.find("Q8_0"), std::string::npos);
  const std::vector<float> a = floats(tensors_[0].bytes), b = floats(tensors_[1].bytes),
                           found = values_of(down);
  for (size_t i = 0; i < found.size(); i++) {
    const double expected = 3 * (b[i / 32 * 2] * a[i % 32] + b[i / 32 * 2 + 1] * a[32 + i % 32]);
    ASSERT_NEAR(found[i], expected, 1e-3) << i;
  }
  EXPECT_EQ(model.tensor(Role::ffn_down, 1).spec.dtype, DType::q8_0);
}

TEST_F(Adapted, RefusesWhatDoesNotFit) {
  add_product(kUp, 2, 12, 7);
  EXPECT_NE(message_of().find("do not fit \"model.layers.0.mlp.up_proj.weight\" [12, 8]"), std::string::npos);
  tensors_.clear();
  add_product("model.norm", 2, 8, 8);
  EXPECT_NE(message_of().find("which is no matrix"), std::string::npos);
  tensors_.clear();
  add(std::string(kUp) + ".lora_A.weight", {2, 8});
  add(std::string(kUp) + ".lora_embedding_B", {12, 2});
  EXPECT_NE(message_of().find("do not belong together"), std::string::npos);
  tensors_.clear();
  for (const char* name : {".lora_A.weight", "lora_A.weight", "model.lora_A", ".", "model..lora_B.weight"}) {
    tensors_.clear();
    add(name, {2, 8});
    EXPECT_NE(message_of(), "") << name;
  }
}

}  // namespace
}  // namespace moerge
