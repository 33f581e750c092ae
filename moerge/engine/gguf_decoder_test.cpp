// The forward pass over GGUF files: rows of q and k in another order, and matrices of every block type.
#include <gtest/gtest.h>

#include <cmath>

#include "moerge/base/error.h"
#include "moerge/engine/decoder.h"
#include "moerge/tensor/convert.h"
#include "moerge/tensor/quantize.h"
#include "moerge/testing/tiny_gguf.h"

namespace moerge {
namespace {

using testing::TempDir;
using testing::TinyGgufTensor;
using States = std::vector<std::vector<float>>;

constexpr int64_t kHidden = 256, kFfn = 512, kVocab = 64, kLayers = 3;

GgufMetadata metadata() {
  GgufMetadata m = testing::tiny_gguf_metadata();
  m.set("llama.block_count", static_cast<uint32_t>(kLayers));
  m.set("llama.embedding_length", static_cast<uint32_t>(kHidden));
  m.set("llama.feed_forward_length", static_cast<uint32_t>(kFfn));
  m.set("llama.attention.head_count", uint32_t{4});
  m.set("llama.attention.head_count_kv", uint32_t{2});
  m.set("llama.rope.dimension_count", uint32_t{64});
  return m;
}

// Matrices are put together from these stretches of kStretch values, picked without a pattern: quantising few
// values is quick, and stretches are whole blocks of every type.
constexpr int64_t kStretch = 256, kStretches = 64;

double noise(int64_t i, int64_t seed) {
  const double x =
      std::sin(static_cast<double>(i) * 12.9898 + static_cast<double>(seed) * 78.233) * 43758.5453;
  return x - std::floor(x);
}

std::vector<float> stretches() {
  std::vector<float> values;
  for (int64_t i = 0; i < kStretch * kStretches; i++)
    values.push_back(static_cast<float>(noise(i, 1) - 0.5) * 0.2f);
  return values;
}

std::string bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * 4};
}

std::string quantized(DType dtype, const std::vector<float>& values) {
  const std::vector<float> importance(kStretch, 1.0f);
  std::string bytes(static_cast<size_t>(byte_size(dtype, std::ssize(values))), '\0');
  quantize_rows(dtype, values, kStretch, importance, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

// Blocks of the types whose quantisation needs seconds to prepare: any bits are values of theirs, behind a
// float16 scale.
std::string made_up(DType dtype) {
  std::string bytes(static_cast<size_t>(byte_size(dtype, kStretch * kStretches)), '\0');
  for (size_t i = 0; i < bytes.size(); i++)
    bytes[i] = static_cast<char>(static_cast<int>(noise(static_cast<int64_t>(i), 7) * 256));
  const auto set_scale = [&](float value) {
    const uint16_t scale = f32_to_f16(value);
    for (size_t block = 0; block < bytes.size(); block += static_cast<size_t>(info(dtype).bytes))
      std::memcpy(bytes.data() + block, &scale, sizeof scale);
  };
  set_scale(1);
  std::vector<float> values(kStretch * kStretches);
  to_f32(dtype, std::as_bytes(std::span(bytes)), values);
  double squares = 0;
  for (const float value : values) squares += double{value} * value;
  set_scale(static_cast<float>(0.06 / std::sqrt(squares / static_cast<double>(values.size()))));
  return bytes;
}

std::string blocks_of(DType dtype) {
  switch (dtype) {
    case DType::iq1_s:
    case DType::iq2_xxs:
    case DType::iq2_xs:
    case DType::iq2_s:
    case DType::iq3_xxs:
    case DType::iq3_s:
      return made_up(dtype);
    default:
      return quantized(dtype, stretches());
  }
}

// A whole model whose matrices are of type `dtype`, made from the bytes of all stretches in that type.
std::string model_file(DType dtype, const std::string& pool) {
  std::vector<TinyGgufTensor> tensors;
  const size_t stretch = pool.size() / kStretches;
  const auto add = [&](const std::string& name, int64_t rows, int64_t columns, size_t heads = 0) {
    std::string bytes;
    for (int64_t i = 0; i < rows * columns / kStretch; i++)
      bytes +=
          pool.substr(static_cast<size_t>(noise(i, std::ssize(tensors) + 2) * kStretches) * stretch, stretch);
    if (heads > 0) bytes = testing::rotary_rows(bytes, static_cast<size_t>(rows), heads);
    tensors.push_back({{name, dtype, {rows, columns}}, std::move(bytes)});
  };
  const auto add_norm = [&](const std::string& name) {
    tensors.push_back({{name, DType::f32, {kHidden}}, bytes_of(std::vector<float>(kHidden, 1.0f))});
  };
  add("token_embd.weight", kVocab, kHidden);
  for (int layer = 0; layer < kLayers; layer++) {
    const std::string block = fmt::format("blk.{}.", layer);
    add_norm(block + "attn_norm.weight");
    add(block + "attn_q.weight", kHidden, kHidden, 4);
    add(block + "attn_k.weight", kHidden / 2, kHidden, 2);
    add(block + "attn_v.weight", kHidden / 2, kHidden);
    add(block + "attn_output.weight", kHidden, kHidden);
    add_norm(block + "ffn_norm.weight");
    add(block + "ffn_gate.weight", kFfn, kHidden);
    add(block + "ffn_up.weight", kFfn, kHidden);
    add(block + "ffn_down.weight", kHidden, kFfn);
  }
  add_norm("output_norm.weight");
  return testing::gguf_bytes(metadata(), tensors);
}

States encode(const std::filesystem::path& file, WeightType weights = WeightType::as_stored) {
  const Model model("m", {file});
  const std::vector<TokenSequence> sequences = {{1, 2, 3, 4, 5, 6, 7, 8, 9}, {60, 3, 60, 2}, {5}};
  States states;
  const auto keep = [&](int64_t, auto part) { states.emplace_back(part.begin(), part.end()); };
  StreamingDecoder(model, {.threads = 1, .weights = weights}).encode(sequences, {.entering = keep});
  return states;
}

// The least similar token, over all layers.
double worst_cosine(const States& a, const States& b) {
  double worst = 1;
  for (size_t layer = 0; layer < a.size(); layer++)
    for (size_t start = 0; start < a[layer].size(); start += kHidden) {
      double ab = 0, aa = 0, bb = 0;
      for (size_t i = start; i < start + kHidden; i++) {
        const double x = a[layer][i], y = b[layer][i];
        ab += x * y, aa += x * x, bb += y * y;
      }
      worst = std::min(worst, ab / std::sqrt(aa * bb));
    }
  return worst;
}

// The same weights in a folder, in transformers' order.
std::filesystem::path write_folder(const TempDir& dir, const Model& gguf) {
  std::vector<testing::TinyTensor> tensors;
  for (const StoredTensor& tensor : gguf.checkpoint.tensors()) {
    std::string bytes(static_cast<size_t>(tensor.spec.bytes()), '\0');
    read_rows(tensor, 0, tensor.rows(), std::as_writable_bytes(std::span(bytes)));
    tensors.push_back({tensor.spec.name, "F32", tensor.spec.shape, bytes});
  }
  dir.write("folder/config.json", gguf.config.raw.dump());
  dir.write("folder/model.safetensors", testing::safetensors_bytes(tensors));
  return dir / "folder";
}

TEST(GgufDecoder, StatesOfTheSameModelAsAFolder) {
  const TempDir dir;
  const auto file = dir.write("m.gguf", model_file(DType::f32, bytes_of(stretches())));
  const auto folder = write_folder(dir, Model("m", {file}));
  EXPECT_EQ(encode(file), encode(folder));
  // Quantised on the way, q and k go through the same rows as well.
  EXPECT_EQ(encode(file, WeightType::q8_0), encode(folder, WeightType::q8_0));
}

TEST(GgufDecoder, EveryBlockTypeIsComputedWith) {
  const TempDir dir;
  for (const DTypeInfo& row : dtype_table()) {
    if (!is_quantized(row.dtype) || row.dtype == DType::iq1_m)
      continue;  // IQ1_M: slow, and no scale in front
    const std::string blocks = blocks_of(row.dtype);
    std::vector<float> rounded(kStretch * kStretches);
    to_f32(row.dtype, std::as_bytes(std::span(blocks)), rounded);
    const States found = encode(dir.write("blocks.gguf", model_file(row.dtype, blocks)));
    const States expected = encode(dir.write("floats.gguf", model_file(DType::f32, bytes_of(rounded))));
    const double cosine = worst_cosine(found, expected);
    EXPECT_GT(cosine, 0.999) << row.gguf;  // ggml rounds the states to 8 bits
    RecordProperty(std::string(row.gguf), fmt::format("cosine 1-{:.1e}", 1 - cosine));
    // Blocks are not quantised once more.
    EXPECT_EQ(encode(dir / "blocks.gguf", WeightType::q4_1), found) << row.gguf;
  }
}

TEST(GgufDecoder, BlocksAtOddAddresses) {
  const TempDir dir;
  const auto file = dir.write("even.gguf", model_file(DType::q4_1, quantized(DType::q4_1, stretches())));
  // The same tensors, each one byte further: alignment 1 and a first tensor of one byte.
  GgufFiles files = open_gguf(file);
  GgufMetadata odd = metadata();
  odd.set(std::string(kGgufAlignmentKey), uint32_t{1});
  std::vector<TinyGgufTensor> tensors;
  for (const GgufFiles::Tensor& tensor : files.tensors)
    tensors.push_back(
        {tensor.tensor.spec,
         std::string(reinterpret_cast<const char*>(tensor.file->bytes().data()) + tensor.tensor.offset,
                     static_cast<size_t>(tensor.tensor.spec.bytes()))});
  for (int pad = 0; pad < 4; pad++) {
    odd.set("padding", std::string(static_cast<size_t>(pad), 'x'));
    EXPECT_EQ(encode(dir.write("odd.gguf", testing::gguf_bytes(odd, tensors))), encode(file)) << pad;
  }
}

// Qwen's families: rows of q and k stay in order; biases, or norms over every head, come along. By the names
// of a folder and of a GGUF file.
std::vector<std::pair<std::string, std::string>> qwen_names(const std::string& family) {
  std::vector<std::pair<std::string, std::string>> names = {
      {"input_layernorm.weight", "attn_norm.weight"},
      {"self_attn.q_proj.weight", "attn_q.weight"},
      {"self_attn.k_proj.weight", "attn_k.weight"},
      {"self_attn.v_proj.weight", "attn_v.weight"},
      {"self_attn.o_proj.weight", "attn_output.weight"},
      {"post_attention_layernorm.weight", "ffn_norm.weight"},
      {"mlp.gate_proj.weight", "ffn_gate.weight"},
      {"mlp.up_proj.weight", "ffn_up.weight"},
      {"mlp.down_proj.weight", "ffn_down.weight"}};
  for (const std::string part : {"q", "k", "v"})
    if (family == "qwen2") names.emplace_back("self_attn." + part + "_proj.bias", "attn_" + part + ".bias");
  for (const std::string part : {"q", "k"})
    if (family == "qwen3")
      names.emplace_back("self_attn." + part + "_norm.weight", "attn_" + part + "_norm.weight");
  return names;
}

Shape qwen_shape(const std::string& name) {
  const auto has = [&](std::string_view part) { return name.find(part) != std::string::npos; };
  const int64_t rows = has("gate") || has("up_")        ? kFfn
                       : has("k_proj") || has("v_proj") ? kHidden / 2
                                                        : kHidden;
  if (has("bias")) return {rows};
  if (has("q_norm") || has("k_norm")) return {64};
  return has("layernorm") ? Shape{kHidden} : Shape{rows, has("down") ? kFfn : kHidden};
}

TEST(GgufDecoder, QwenFamiliesAsAFolder) {
  for (const std::string family : {"qwen2", "qwen3"}) {
    const TempDir dir;
    std::vector<testing::TinyTensor> folder;
    std::vector<TinyGgufTensor> file;
    const auto add = [&](const std::string& name, const std::string& gguf, const Shape& shape) {
      int64_t count = 1;
      for (const int64_t n : shape) count *= n;
      std::vector<float> values;
      for (int64_t i = 0; i < count; i++)
        values.push_back(static_cast<float>(noise(i, std::ssize(file) + 3) - 0.5) *
                         (shape.size() == 1 ? 2 : 0.2f));
      folder.push_back({name, "F32", shape, bytes_of(values)});
      file.push_back({{gguf, DType::f32, shape}, bytes_of(values)});
    };
    add("model.embed_tokens.weight", "token_embd.weight", {kVocab, kHidden});
    for (int layer = 0; layer < kLayers; layer++)
      for (const auto& [name, gguf] : qwen_names(family))
        add(fmt::format("model.layers.{}.{}", layer, name), fmt::format("blk.{}.{}", layer, gguf),
            qwen_shape(name));
    add("model.norm.weight", "output_norm.weight", {kHidden});

    const GgufMetadata llama = metadata();
    GgufMetadata data;
    for (const auto& [key, value] : llama.entries())
      data.set(key.starts_with("llama.") ? family + key.substr(5) : key, value);
    data.set("general.architecture", family);
    const Json config = {{"model_type", family},
                         {"hidden_size", kHidden},
                         {"intermediate_size", kFfn},
                         {"num_hidden_layers", kLayers},
                         {"num_attention_heads", 4},
                         {"num_key_value_heads", 2},
                         {"head_dim", 64},
                         {"vocab_size", kVocab},
                         {"rms_norm_eps", 1e-5},
                         {"tie_word_embeddings", true}};
    dir.write("folder/config.json", config.dump());
    dir.write("folder/model.safetensors", testing::safetensors_bytes(folder));
    const States states = encode(dir.write("m.gguf", testing::gguf_bytes(data, file)));
    EXPECT_EQ(states, encode(dir / "folder")) << family;
    EXPECT_EQ(std::ssize(states), kLayers);
  }
}

TEST(GgufDecoder, NamesTheMetadata) {
  const TempDir dir;
  dir.write("m.gguf", model_file(DType::f32, bytes_of(stretches())));
  GgufMetadata wide = metadata();
  wide.set("llama.feed_forward_length", static_cast<uint32_t>(kFfn / 2));
  std::vector<TinyGgufTensor> none;
  for (const GgufFiles::Tensor& tensor : open_gguf(dir / "m.gguf").tensors)
    none.push_back({tensor.tensor.spec, std::string(static_cast<size_t>(tensor.tensor.spec.bytes()), '\0')});
  const Model model("m", {dir.write("wide.gguf", testing::gguf_bytes(wide, none))});
  try {
    const StreamingDecoder decoder(model);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(error.message().find("is [512, 256], its metadata says [256, 256]"), std::string::npos)
        << error.message();
  }
}

}  // namespace
}  // namespace moerge
