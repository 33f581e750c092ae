#include "moerge/formats/checkpoint.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/tensor/convert.h"
#include "moerge/testing/tiny_gguf.h"
#include "moerge/testing/tiny_pytorch.h"

namespace moerge {
namespace {

using testing::pytorch_bytes;
using testing::safetensors_bytes;
using testing::TempDir;

std::string message_of(const std::filesystem::path& folder) {
  try {
    const Checkpoint checkpoint(folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void expect_refused(const TempDir& dir, const std::string& because) {
  const std::string message = message_of(dir.path());
  EXPECT_NE(message.find(because), std::string::npos) << "expected: " << because << "\nfound: " << message;
}

TEST(Checkpoint, OneFile) {
  const TempDir dir;
  dir.write("model.safetensors", safetensors_bytes({{"a", "F32", {1}, "1234"}, {"b", "U8", {2}, "xy"}}));
  const Checkpoint checkpoint(dir.path());
  ASSERT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.at("b").view().bytes[1], std::byte{'y'});
  EXPECT_EQ(checkpoint.find("c"), nullptr);
  EXPECT_THROW(checkpoint.at("c"), Error);
  EXPECT_EQ(checkpoint.bytes(), 6);
}

TEST(Checkpoint, Shards) {
  const TempDir dir;
  dir.write("s1.safetensors", safetensors_bytes({{"a", "F32", {1}, "1234"}}));
  dir.write("s2.safetensors", safetensors_bytes({{"b", "F32", {1}, "5678"}}));
  dir.write("model.safetensors.index.json",
            R"({"weight_map": {"a": "s1.safetensors", "b": "s2.safetensors"}})");
  const Checkpoint checkpoint(dir.path());
  EXPECT_EQ(checkpoint.at("b").view().bytes[0], std::byte{'5'});
}

TEST(Checkpoint, RefusesBrokenShards) {
  const TempDir dir;
  const std::string index = "model.safetensors.index.json";
  dir.write("s1", safetensors_bytes({{"a", "F32", {1}, "1234"}}));
  dir.write("s2", safetensors_bytes({{"a", "F32", {1}, "1234"}, {"b", "U8", {1}, "x"}}));
  dir.write(index, R"({"weight_map": {"a": "s1", "b": "s3"}})");
  expect_refused(dir, "shard s3 is missing");
  dir.write(index, R"({"weight_map": {"a": "s1", "b": "s1"}})");
  expect_refused(dir, "s1 should hold \"b\"");
  dir.write(index, R"({"weight_map": {"a": "s1", "b": "s2"}})");
  expect_refused(dir, "in two shards");
  dir.write(index, R"({"weight_map": {"a": "../s1"}})");
  expect_refused(dir, "no file name for a shard");
  dir.write(index, R"({"weight_map": {"a": "/etc/passwd"}})");
  expect_refused(dir, "no file name for a shard");
  dir.write(index, R"({"weight_map": {"a": 1}})");
  expect_refused(dir, "should name a file");
  dir.write(index, R"({"weights": 1})");
  expect_refused(dir, "weight_map");
  dir.write(index, "[]");
  expect_refused(dir, "weight_map");
}

TEST(Checkpoint, SaysWhatItLooksFor) {
  const TempDir dir;
  dir.write("pytorch_model-00001-of-00002.bin", "PK");
  expect_refused(dir,
                 "no weights in this folder: none of model.safetensors, model.safetensors.index.json, "
                 "pytorch_model.bin, pytorch_model.bin.index.json");
  EXPECT_NE(message_of(dir / "nowhere").find("not a folder"), std::string::npos);
}

// -------- PyTorch

TEST(PytorchCheckpoint, OneFile) {
  const TempDir dir;
  dir.write("pytorch_model.bin", pytorch_bytes({{"a", "F32", {1}, "1234"}, {"b", "U8", {2}, "xy"}}));
  const Checkpoint checkpoint(dir.path());
  ASSERT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.at("b").view().bytes[1], std::byte{'y'});
  EXPECT_EQ(place_of(checkpoint.at("b")), dir.path());
}

TEST(PytorchCheckpoint, Shards) {
  const TempDir dir;
  dir.write("pytorch_model-00001-of-00002.bin", pytorch_bytes({{"a", "F32", {1}, "1234"}}));
  dir.write("pytorch_model-00002-of-00002.bin", pytorch_bytes({{"b", "F32", {1}, "5678"}}));
  const std::string index = "pytorch_model.bin.index.json";
  dir.write(
      index,
      R"({"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}})");
  EXPECT_EQ(Checkpoint(dir.path()).at("b").view().bytes[0], std::byte{'5'});
  dir.write(index, R"({"weight_map": {"b": "pytorch_model-00001-of-00002.bin"}})");
  expect_refused(dir, "pytorch_model-00001-of-00002.bin should hold \"b\"");
  dir.write(index, R"({"weight_map": {"b": "pytorch_model-00003-of-00003.bin"}})");
  expect_refused(dir, "shard pytorch_model-00003-of-00003.bin is missing");
}

TEST(PytorchCheckpoint, SafetensorsComeFirst) {
  const TempDir dir;
  dir.write("pytorch_model.bin", "x");
  dir.write("pytorch_model.bin.index.json", "x");
  dir.write("model.safetensors", safetensors_bytes({{"a", "F32", {1}, "1234"}}));
  EXPECT_EQ(Checkpoint(dir.path()).tensors().size(), 1u);
}

TEST(Checkpoint, OneFileOfWeightsByItself) {
  const TempDir dir;
  dir.write("adapter_model.bin", pytorch_bytes({{"a", "F32", {1}, "1234"}}));
  dir.write("adapter_model.safetensors", safetensors_bytes({{"a", "F32", {1}, "5678"}}));
  const Checkpoint bin = Checkpoint::open_file(dir / "adapter_model.bin");
  EXPECT_EQ(bin.at("a").view().bytes[0], std::byte{'1'});
  EXPECT_EQ(bin.path(), dir / "adapter_model.bin");
  EXPECT_EQ(Checkpoint::open_file(dir / "adapter_model.safetensors").at("a").view().bytes[0], std::byte{'5'});
  EXPECT_THROW(Checkpoint::open_file(dir / "adapter_model.npz"), Error);
  EXPECT_THROW(Checkpoint::open_file(dir / "missing.bin"), Error);
}

// -------- GGUF

std::string text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string rows_of(const StoredTensor& tensor, int64_t first, int64_t count) {
  std::vector<std::byte> out(static_cast<size_t>(count * tensor.row_bytes()));
  read_rows(tensor, first, count, out);
  return text(out);
}

Checkpoint open_with(const TempDir& dir, const std::vector<testing::TinyGgufTensor>& tensors, int64_t heads) {
  dir.write("m.gguf", testing::gguf_bytes(testing::tiny_gguf_metadata(), tensors));
  return Checkpoint(open_gguf(dir / "m.gguf"), [heads](const TensorSpec& spec) -> GgufAlias {
    if (spec.name == "left out") return {};
    return {"model." + spec.name, spec.name == "q" ? heads : 0};
  });
}

TEST(GgufCheckpoint, HasTheModelsNames) {
  const TempDir dir;
  const Checkpoint checkpoint =
      open_with(dir, {{{"v", DType::i8, {2, 3}}, "abcdef"}, {{"left out", DType::i8, {1}}, "x"}}, 0);
  ASSERT_EQ(checkpoint.tensors().size(), 1u);
  const StoredTensor& v = checkpoint.at("model.v");
  EXPECT_TRUE(v.is_plain());
  EXPECT_EQ(v.spec.shape, (Shape{2, 3}));
  EXPECT_EQ(text(v.view().bytes), "abcdef");
  EXPECT_EQ(rows_of(v, 1, 1), "def");
  EXPECT_EQ(place_of(v), dir / "m.gguf");
  EXPECT_EQ(checkpoint.path(), dir / "m.gguf");
  EXPECT_EQ(checkpoint.gguf()->integer("llama.block_count"), 2);
  EXPECT_THROW(checkpoint.at("v"), Error);
}

// 2 heads of 6 rows: the model's halves are rows 0 1 2 and 3 4 5 of a head, the file has them in turns.
TEST(GgufCheckpoint, RowsOfRotaryHeadsComeInTheModelsOrder) {
  const TempDir dir;
  const std::string model = "aAbBcCdDeEfFgGhHiIjJkKlL";
  const std::string file = testing::rotary_rows(model, 12, 2);
  EXPECT_EQ(file, "aAdDbBeEcCfFgGjJhHkKiIlL");
  const Checkpoint checkpoint = open_with(dir, {{{"q", DType::i8, {12, 2}}, file}}, 2);
  const StoredTensor& q = checkpoint.at("model.q");
  EXPECT_FALSE(q.is_plain());
  EXPECT_EQ(rows_of(q, 0, 12), model);
  for (int64_t first = 0; first < 12; first++)
    for (int64_t count = 0; first + count <= 12; count++)
      ASSERT_EQ(rows_of(q, first, count),
                model.substr(static_cast<size_t>(first) * 2, static_cast<size_t>(count) * 2));
  // A bias is a row of single elements each.
  const Checkpoint bias =
      open_with(dir, {{{"q", DType::i8, {12}}, testing::rotary_rows("abcdefghijkl", 12, 2)}}, 2);
  EXPECT_EQ(rows_of(bias.at("model.q"), 2, 9), "cdefghijk");
}

TEST(GgufCheckpoint, RefusesRowsThatAreNoHeads) {
  const TempDir dir;
  const auto refused = [&](const testing::TinyGgufTensor& tensor, int64_t heads) {
    try {
      open_with(dir, {tensor}, heads);
    } catch (const Error& error) {
      return std::string(error.what()).find("does not consist of") != std::string::npos;
    }
    return false;
  };
  EXPECT_TRUE(refused({{"q", DType::i8, {10, 2}}, std::string(20, 'x')}, 2));
  EXPECT_TRUE(refused({{"q", DType::i8, {}}, "x"}, 1));
  EXPECT_TRUE(refused({{"q", DType::q8_0, {64}}, std::string(68, 'x')}, 1));
  EXPECT_TRUE(refused({{"q", DType::i8, {4, 1}}, "abcd"}, int64_t{1} << 30));
  EXPECT_FALSE(refused({{"q", DType::i8, {4, 1}}, "abcd"}, 2));
  EXPECT_FALSE(refused({{"q", DType::i8, {0, 4}}, ""}, 2));
}

TEST(Checkpoint, TransformReplacesTensors) {
  const testing::TempDir dir;
  dir.write("model.safetensors", testing::safetensors_bytes({{"a", "F32", {2, 2}, testing::f32_bytes(4, 1)},
                                                             {"b", "F32", {2}, testing::f32_bytes(2, 2)}}));
  Checkpoint checkpoint(dir.path());
  checkpoint.transform([](const StoredTensor& tensor) -> std::vector<StoredTensor> {
    if (tensor.spec.name == "b") return {};
    StoredTensor doubled = tensor;
    doubled.spec.name = "twice";
    doubled.spec.dtype = DType::bf16;
    doubled.derivation = std::make_shared<Derivation>(
        Derivation{tensor, " x 2", [tensor](int64_t first, int64_t count, std::span<float> values) {
                     std::vector<std::byte> bytes(static_cast<size_t>(count * tensor.row_bytes()));
                     read_rows(tensor, first, count, bytes);
                     to_f32(tensor.spec.dtype, bytes, values);
                     for (float& value : values) value *= 2;
                   }});
    return {tensor, doubled};
  });
  ASSERT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.find("b"), nullptr);
  const StoredTensor &a = checkpoint.at("a"), &twice = checkpoint.at("twice");
  EXPECT_TRUE(a.is_plain());
  EXPECT_FALSE(twice.is_plain());
  EXPECT_EQ(twice.stored_bytes().data(), a.view().bytes.data());
  EXPECT_EQ(twice.stored_bytes().size(), a.view().bytes.size());
  std::vector<std::byte> bytes(static_cast<size_t>(twice.row_bytes()));
  std::vector<float> row(2), source(4);
  read_rows(twice, 1, 1, bytes);
  to_f32(DType::bf16, bytes, row);
  to_f32(DType::f32, a.view().bytes, source);
  for (size_t i = 0; i < 2; i++) EXPECT_NEAR(row[i], 2 * source[2 + i], std::abs(source[2 + i]) / 64);
  EXPECT_THROW(checkpoint.transform([](const StoredTensor& tensor) {
    return std::vector<StoredTensor>{tensor, tensor};
  }),
               Error);
}

}  // namespace
}  // namespace moerge
