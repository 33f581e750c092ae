#include "moerge/merge/stages.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/testing/temp_dir.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

std::string merge_of(const std::string& name, const std::string& first, const std::string& second) {
  return (name.empty() ? "" : "name: " + name + "\n") +
         "merge_method: linear\nmodels:\n  - {model: " + first +
         ", parameters: {weight: 1}}\n  - {model: " + second + ", parameters: {weight: 1}}\n";
}

std::string message(const std::string& yaml) {
  try {
    MergeStages(yaml, "m.yaml");
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

TEST(MergeStages, TheResultIsTheOneWithoutAName) {
  const MergeStages stages(merge_of("", "half", "c") + "---\n" + merge_of("half", "a", "b"), "m.yaml");
  EXPECT_FALSE(stages.makes_mixture());
  EXPECT_EQ(stages.result().slices[0].sources[0].model, "half");
  EXPECT_EQ(stages.models(), (std::vector<std::string>{"c", "a", "b"}));
}

TEST(MergeStages, OrTheOneThatNoOtherUses) {
  const MergeStages stages(merge_of("first", "a", "b") + "---\n" + merge_of("last", "first", "c") + "---\n",
                           "m.yaml");
  EXPECT_EQ(stages.result().name, "last");
}

TEST(MergeStages, MixturesOfMerges) {
  const MergeStages stages(merge_of("half", "a", "b") +
                               "---\nbase_model: a\nexperts:\n  - source_model: half\n  - source_model: c\n",
                           "m.yaml");
  EXPECT_TRUE(stages.makes_mixture());
  EXPECT_NE(stages.result_document().find("experts"), nullptr);
  EXPECT_EQ(stages.models(), (std::vector<std::string>{"a", "b", "c"}));
}

TEST(MergeStages, WhatDoesNotFitTogether) {
  EXPECT_NE(message("").find("nothing in this file"), std::string::npos);
  EXPECT_NE(message(merge_of("", "a", "b") + "---\n" + merge_of("", "a", "b")).find("m.yaml:6:"),
            std::string::npos);
  EXPECT_NE(message(merge_of("x", "a", "b") + "---\n" + merge_of("x", "a", "b")).find("called \"x\""),
            std::string::npos);
  EXPECT_NE(message(merge_of("x", "y", "b") + "---\n" + merge_of("y", "x", "b")).find("x, y, x"),
            std::string::npos);
  EXPECT_NE(message(merge_of("x", "x", "b")).find("x, x"), std::string::npos);
  // Everything at once.
  const std::string both = message("merge_method: ties\n---\nmerge_method: slrep\n");
  EXPECT_NE(both.find("m.yaml:1:"), std::string::npos);
  EXPECT_NE(both.find("did you mean \"slerp\"?"), std::string::npos);
}

TEST(MergeStages, AStageIsAModel) {
  testing::TempDir dir;
  for (int seed = 1; seed <= 3; seed++)
    testing::write_tiny_model(dir, std::string(1, static_cast<char>('`' + seed)), seed);
  const MergeStages stages(
      "dtype: bfloat16\n" + merge_of("half", "a", "b") + "---\n" + merge_of("", "half", "c"), "m.yaml");
  int opened = 0;
  const OpenModel elsewhere = [&](const std::string& reference) {
    opened++;
    return OpenedModel{
        std::make_shared<const Model>(reference, ModelLocation{dir / reference}, Families::any)};
  };
  std::vector<std::string> warnings;
  const auto merge = plan_merge(stages.result(), stages.with_stages(elsewhere, {}, warnings), {});
  EXPECT_EQ(opened, 3);
  EXPECT_EQ(merge->sources.size(), 3u);
  EXPECT_EQ(merge->opened.at("half")->checkpoint.at("model.norm.weight").spec.dtype, DType::bf16);
  const StoredTensor& out = merge->result.at("model.layers.1.mlp.up_proj.weight");
  EXPECT_EQ(stored_sources(out).size(), 3u);
  const auto rows = [](const StoredTensor& tensor) {
    std::vector<float> values(static_cast<size_t>(tensor.spec.elements()));
    read_row_values(tensor, 0, tensor.rows(), values);
    return values;
  };
  const auto of = [&](const std::string& model) {
    const Checkpoint checkpoint(dir / model);
    return rows(checkpoint.at(out.spec.name));
  };
  const std::vector<float> a = of("a"), b = of("b"), c = of("c"), made = rows(out);
  for (size_t i = 0; i < made.size(); i++) ASSERT_NEAR(made[i], ((a[i] + b[i]) / 2 + c[i]) / 2, 1e-2);
}

}  // namespace
}  // namespace moerge
