#include "moerge/formats/checkpoint.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

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

TEST(Checkpoint, SaysWhatIsThereInstead) {
  const TempDir dir;
  expect_refused(dir, "neither model.safetensors nor");
  dir.write("model.gguf", "GGUF");
  expect_refused(dir, "GGUF files are not read yet");
  dir.write("pytorch_model-00001-of-00002.bin", "PK");
  expect_refused(dir, "PyTorch .bin");
  EXPECT_NE(message_of(dir / "nowhere").find("not a folder"), std::string::npos);
}

}  // namespace
}  // namespace moerge
