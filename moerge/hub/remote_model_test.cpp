#include "moerge/hub/remote_model.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {

using testing::TempDir;

TEST(ByteRanges, AreJoined) {
  EXPECT_EQ(merged({{5, 9}, {0, 2}, {2, 4}, {8, 12}, {20, 20}}), (ByteRanges{{0, 4}, {5, 12}}));
  EXPECT_EQ(merged({{0, 10}, {2, 3}}), (ByteRanges{{0, 10}}));
  EXPECT_EQ(total_bytes({{0, 4}, {5, 12}}), 11);
}

TEST(ByteRanges, WhatIsThereIsLeftOut) {
  EXPECT_EQ(without({{0, 10}}, {}), (ByteRanges{{0, 10}}));
  EXPECT_EQ(without({{0, 10}}, {{0, 10}}), (ByteRanges{}));
  EXPECT_EQ(without({{0, 10}}, {{2, 4}, {6, 8}}), (ByteRanges{{0, 2}, {4, 6}, {8, 10}}));
  EXPECT_EQ(without({{0, 10}, {20, 30}}, {{5, 25}}), (ByteRanges{{0, 5}, {25, 30}}));
  EXPECT_EQ(without({{0, 4}, {6, 9}}, {{0, 3}, {5, 7}, {8, 20}}), (ByteRanges{{3, 4}, {7, 8}}));
  // The same, byte by byte.
  const ByteRanges wanted = {{1, 7}, {9, 15}, {16, 21}},
                   there = {{0, 2}, {4, 5}, {6, 10}, {14, 17}, {20, 40}};
  const auto holds = [](const ByteRanges& ranges, int64_t byte) {
    return std::ranges::any_of(ranges,
                               [&](const ByteRange& r) { return r.first <= byte && byte < r.second; });
  };
  const ByteRanges rest = without(wanted, there);
  for (int64_t byte = 0; byte < 50; byte++)
    EXPECT_EQ(holds(rest, byte), holds(wanted, byte) && !holds(there, byte)) << byte;
}

HubRepository repository(const std::vector<std::string>& paths) {
  HubRepository out = {.name = {.repository = "org/name"}};
  for (const std::string& path : paths) out.files.push_back({.path = path, .size = 10, .blob_id = ""});
  return out;
}

std::vector<std::string> paths(const std::vector<HubFile>& files) {
  std::vector<std::string> out;
  for (const HubFile& file : files) out.push_back(file.path);
  return out;
}

TEST(ModelFiles, SmallOnesAreThoseThatAModelFolderNeeds) {
  const std::vector<std::string> wanted = {"config.json",
                                           "tokenizer.model",
                                           "README.md",
                                           "merges.txt",
                                           "LICENSE",
                                           "chat_template.jinja",
                                           "additional_chat_templates/tool.jinja"};
  std::vector<std::string> all = wanted;
  for (const char* other : {".gitattributes", "model.safetensors", "modeling_x.py", "original/params.json",
                            "onnx/config.json", "pytorch_model.bin", "consolidated.safetensors"})
    all.emplace_back(other);
  EXPECT_EQ(paths(small_model_files(repository(all))), wanted);
}

TEST(ModelFiles, WeightsByPreference) {
  const TempDir dir;
  const auto weights = [&](const std::vector<std::string>& files) {
    return paths(weight_files(repository(files), dir.path()));
  };
  using Paths = std::vector<std::string>;
  EXPECT_EQ(weights({"pytorch_model.bin", "model.safetensors", "a.gguf", "consolidated.safetensors"}),
            Paths{"model.safetensors"});
  EXPECT_EQ(weights({"pytorch_model.bin", "a.gguf"}), Paths{"pytorch_model.bin"});
  EXPECT_EQ(weights({"a.gguf"}), Paths{"a.gguf"});
  EXPECT_EQ(weights({"a-00001-of-00002.gguf", "a-00002-of-00002.gguf"}),
            (Paths{"a-00001-of-00002.gguf", "a-00002-of-00002.gguf"}));
  EXPECT_EQ(weights({"adapter_config.json", "adapter_model.bin"}), Paths{"adapter_model.bin"});
  EXPECT_EQ(weights({"adapter_config.json", "adapter_model.bin", "model.safetensors"}),
            (Paths{"adapter_model.bin", "model.safetensors"}));
  EXPECT_EQ(weights({"adapter_config.json", "model.safetensors"}), Paths{"model.safetensors"});
  dir.write("model.safetensors.index.json",
            R"({"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}})");
  EXPECT_EQ(weights({"model.safetensors.index.json", "1.safetensors", "2.safetensors"}),
            (Paths{"1.safetensors", "2.safetensors"}));
  EXPECT_THROW(weights({"model.safetensors.index.json", "1.safetensors"}), Error);
  EXPECT_THROW(weights({"config.json"}), Error);
  EXPECT_THROW(weights({"a.gguf", "b.gguf"}), Error);
}

}  // namespace
}  // namespace moerge
