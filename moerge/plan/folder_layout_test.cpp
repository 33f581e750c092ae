#include "moerge/plan/folder_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "moerge/formats/checkpoint.h"
#include "moerge/formats/safetensors_sink.h"
#include "moerge/plan/execute.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

using testing::TempDir;

constexpr int64_t kBlock = 4096;

// Models whose norms (1000 bytes) shift everything behind them, and FFNs of whole blocks.
class Layout : public ::testing::Test {
 protected:
  static testing::TinyTensor tensor(const std::string& name, int64_t bytes, int seed) {
    std::string data(static_cast<size_t>(bytes), '\0');
    for (size_t i = 0; i < data.size(); i++)
      data[i] = static_cast<char>(i * 31 + i / 256 + static_cast<size_t>(seed));
    return {name, "U8", {bytes}, data};
  }

  const Checkpoint& model(const std::string& name, int layers, int seed) {
    std::vector<testing::TinyTensor> tensors;
    for (int layer = 0; layer < layers; layer++) {
      const std::string of = std::to_string(layer);
      tensors.push_back(tensor("norm" + of, 1000, seed + layer));
      tensors.push_back(tensor("ffn" + of, 5 * kBlock, seed + 20 + layer));
      tensors.push_back(tensor("attention" + of, 3 * kBlock, seed + 40 + layer));
    }
    dir_.write(name + "/model.safetensors", testing::safetensors_bytes(tensors));
    return *opened_.emplace_back(std::make_unique<Checkpoint>(dir_ / name));
  }

  // The base's norms and attention, the FFN of both experts, and a router.
  Plan mixture(const Checkpoint& base, const Checkpoint& expert, int layers) {
    Plan plan;
    const auto add = [&](const std::string& name, const Checkpoint& of, const std::string& source) {
      const StoredTensor& stored = of.at(source);
      plan.steps.push_back(
          {{name, stored.spec.dtype, stored.spec.shape}, Concat{{{.source = &stored, .noise_stream = {}}}}});
    };
    for (int layer = 0; layer < layers; layer++) {
      const std::string of = std::to_string(layer);
      add("norm" + of, base, "norm" + of);
      plan.steps.push_back({{"router" + of, DType::f32, {3}}, Fill{"router", [] {
                                                                     return std::vector<float>{1, 2, 3};
                                                                   }}});
      add("ffn0." + of, base, "ffn" + of);
      add("ffn1." + of, expert, "ffn" + of);
      add("attention" + of, base, "attention" + of);
    }
    return plan;
  }

  static FolderLayout share(const Plan& plan, int64_t max = 1'000'000'000) {
    return lay_out_to_share(plan, max, {kBlock, [](const MappedFile&) { return true; }});
  }

  // What the layout claims: every tensor once, in one piece; shared bytes at equal offsets modulo the block.
  static int64_t count_shared(const Plan& plan, const FolderLayout& layout) {
    const std::vector<TensorSpec> specs = plan.specs();
    std::set<size_t> seen;
    int64_t shared = 0;
    for (const Shard& shard : layout.shards) {
      EXPECT_EQ(shard.padding % 8, 0);
      int64_t at = std::ssize(shard.header(specs));
      for (const size_t i : shard.tensors) {
        EXPECT_TRUE(seen.insert(i).second);
        if (const Concat* concat = std::get_if<Concat>(&plan.steps[i].how))
          if (const int64_t from = concat->parts[0].source->offset; from % kBlock == at % kBlock)
            shared +=
                std::max<int64_t>(0, (from + specs[i].bytes()) / kBlock - (from + kBlock - 1) / kBlock) *
                kBlock;
        at += specs[i].bytes();
      }
    }
    EXPECT_EQ(seen.size(), specs.size());
    return shared;
  }

  TempDir dir_;
  std::vector<std::unique_ptr<Checkpoint>> opened_;
};

TEST_F(Layout, TensorsLieAsInTheirSources) {
  const Plan plan = mixture(model("base", 6, 0), model("expert", 6, 100), 6);
  const FolderLayout layout = share(plan);
  EXPECT_GE(count_shared(plan, layout), layout.shared);
  // Per layer 5 + 5 + 3 blocks, of each tensor one less where it does not begin with a block.
  EXPECT_GE(layout.shared, 6 * (4 + 4 + 2) * kBlock * 9 / 10);
  EXPECT_LE(layout.shards.size(), 5u);
}

TEST_F(Layout, TheFilesAreAsGoodAsAnyOthers) {
  const Plan plan = mixture(model("base", 3, 0), model("expert", 3, 100), 3);
  for (const int64_t max : {int64_t{1}, 9 * kBlock, int64_t{1'000'000'000}}) {
    const FolderLayout layout = share(plan, max);
    const std::string name = "out" + std::to_string(max);
    std::filesystem::create_directory(dir_ / name);
    SafetensorsSink sink(dir_ / name, layout.shards, {});
    execute(plan, sink, {.threads = 2});
    const Checkpoint written(dir_ / name);
    ComparingSink compare(written);
    execute(plan, compare, {.threads = 2});
    for (const Shard& shard : layout.shards)
      EXPECT_TRUE(shard.tensors.size() == 1 || shard.data_bytes(plan.specs()) <= max);
    int64_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(dir_ / name))
      if (entry.path().extension() == ".safetensors") bytes += static_cast<int64_t>(entry.file_size());
    EXPECT_EQ(layout.file_bytes(plan), bytes);
  }
}

TEST_F(Layout, StacksShareWhereTheirPartsLieAlike) {
  const Checkpoint& base = model("base", 2, 0);
  Plan plan;
  const auto stack = [&](const char* first, const char* second) {
    plan.steps.push_back({{std::string(first) + second, DType::u8, {0}},
                          Concat{{{.source = &base.at(first), .noise_stream = {}},
                                  {.source = &base.at(second), .noise_stream = {}}}}});
    plan.steps.back().out.shape = {base.at(first).spec.bytes() + base.at(second).spec.bytes()};
  };
  stack("ffn0", "attention0");  // whole blocks one after the other
  stack("ffn0", "attention1");  // between them a norm has shifted the rest
  const FolderLayout layout = share(plan);
  EXPECT_EQ(layout.shared, 4 * kBlock + 2 * kBlock);
}

TEST_F(Layout, WhatCannotBeSharedIsLaidOutBySize) {
  const Checkpoint &base = model("base", 2, 0), &expert = model("expert", 2, 100);
  Plan plan = mixture(base, expert, 2);
  const FolderLayout by_size = lay_out_by_size(plan, 50'000);
  const auto same = [&](const FolderLayout& layout) {
    EXPECT_EQ(layout.shared, 0);
    ASSERT_EQ(layout.shards.size(), by_size.shards.size());
    for (size_t s = 0; s < layout.shards.size(); s++)
      EXPECT_EQ(layout.shards[s].tensors, by_size.shards[s].tensors);
  };
  same(lay_out_to_share(plan, 50'000, {kBlock, [](const MappedFile&) { return false; }}));
  for (Step& step : plan.steps)
    if (Concat* concat = std::get_if<Concat>(&step.how)) concat->parts[0].residual_scale = 2;
  same(share(plan, 50'000));
}

TEST_F(Layout, OneOfTheSourcesMaySuffice) {
  const Checkpoint &base = model("base", 4, 0), &expert = model("expert", 4, 100);
  const Plan plan = mixture(base, expert, 4);
  const MappedFile* other = expert.at("ffn0").file;
  const FolderLayout layout =
      lay_out_to_share(plan, 1'000'000'000, {kBlock, [&](const MappedFile& file) { return &file != other; }});
  EXPECT_GT(layout.shared, 0);
  EXPECT_GE(count_shared(plan, layout), layout.shared);
}

}  // namespace
}  // namespace moerge
