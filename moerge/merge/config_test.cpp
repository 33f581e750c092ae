#include "moerge/merge/config.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "moerge/base/error.h"

namespace moerge {
namespace {

std::string errors_of(const std::string& yaml) {
  try {
    parse_merge_config(yaml, "merge.yaml");
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

TEST(MergeConfig, Models) {
  const MergeConfig config = parse_merge_config(R"(
merge_method: dare_ties
base_model: org/base
models:
  - model: org/one@main
    parameters: {weight: 0.4, density: [0.2, 0.8]}
  - model: {model: {path: org/two, revision: v2}, lora: org/lora}
    parameters: {weight: [{filter: mlp, value: 0.1}, {value: 0.6}]}
parameters: {int8_mask: true}
dtype: bfloat16
out_dtype: float32
)",
                                                "merge.yaml");
  EXPECT_EQ(config.method->name, "dare_ties");
  EXPECT_EQ(config.models(), (std::vector<std::string>{"org/base", "org/one@main", "org/two@v2+org/lora"}));
  ASSERT_EQ(config.slices.size(), 1u);
  EXPECT_TRUE(config.whole_models);
  ASSERT_EQ(config.slices[0].sources.size(), 3u);  // the base as well
  EXPECT_EQ(config.slices[0].sources[2].model, "org/base");
  EXPECT_FALSE(config.slices[0].sources[0].layers);
  ASSERT_EQ(config.slices[0].sources[0].parameters.size(), 2u);
  EXPECT_EQ(config.slices[0].sources[1].parameters[0].rules.size(), 2u);
  EXPECT_EQ(config.dtype, DType::bf16);
  EXPECT_EQ(config.out_dtype, DType::f32);
  EXPECT_TRUE(config.warnings.empty()) << config.warnings.front();
}

TEST(MergeConfig, ABaseThatIsListedStaysWhereItIs) {
  const MergeConfig config = parse_merge_config(
      "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.5}\n",
      "merge.yaml");
  ASSERT_EQ(config.slices[0].sources.size(), 2u);
  EXPECT_EQ(config.slices[0].sources[0].model, "a");
}

TEST(MergeConfig, Slices) {
  const MergeConfig config = parse_merge_config(R"(
merge_method: passthrough
slices:
  - sources:
      - model: a
        layer_range: [0, 16]
  - sources: [{model: b, layer_range: [8, 24], parameters: {scale: [{filter: o_proj, value: 0.5}]}}]
    parameters: {scale: 2}
)",
                                                "merge.yaml");
  ASSERT_EQ(config.slices.size(), 2u);
  EXPECT_FALSE(config.whole_models);
  EXPECT_EQ(config.slices[1].sources[0].layers, (std::pair<int64_t, int64_t>(8, 24)));
  EXPECT_EQ(config.slices[1].sources[0].place, "merge.yaml:7:15");
  EXPECT_EQ(config.slices[1].parameters.size(), 1u);
  EXPECT_EQ(config.models(), (std::vector<std::string>{"a", "b"}));
}

TEST(MergeConfig, WhatIsWrongIsSaidAllAtOnce) {
  const struct {
    const char *yaml, *said;
  } kRows[] = {
      {"models: [{model: a}]\n", "merge.yaml:1:1: no \"merge_method\"; the methods are:"},
      {"merge_method: slrp\nmodels: [{model: a}]\n",
       "unknown merge_method \"slrp\" (did you mean \"slerp\"?)"},
      {"merge_method: linear\n", "neither \"models\" nor \"slices\""},
      {"merge_method: linear\nmodels: [{model: a}]\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]\n",
       "merge.yaml:3:9: both \"models\" and \"slices\""},
      {"merge_method: linear\nmodels: []\n", "\"models\" should be a list of 1 to 1000"},
      {"merge_method: linear\nmodels: a\n", "found a single value"},
      {"merge_method: linear\nmodels: [{modl: a}]\n", "did you mean \"model\"?"},
      {"merge_method: linear\nmodels: [{parameters: {weight: 1}}]\n",
       "merge.yaml:2:10: this has no \"model\""},
      {"merge_method: linear\nmodels: [{model: a}, {model: a}]\n",
       "merge.yaml:2:22: \"a\" is listed twice here"},
      {"merge_method: ties\nmodels: [{model: a}]\n", "ties needs a \"base_model\""},
      {"merge_method: slerp\nbase_model: a\nmodels: [{model: b}, {model: c}]\n",
       "slerp merges 2 models, the base included, found 3 models"},
      {"merge_method: passthrough\nmodels: [{model: b}, {model: c}]\n",
       "passthrough merges 1 model, found 2 models"},
      {"merge_method: model_stock\nbase_model: a\nmodels: [{model: b}]\n",
       "at least 3 models, the base included, found 2"},
      {"merge_method: linear\ndtype: bfloat17\nmodels: [{model: a}]\n",
       "unknown dtype \"bfloat17\" (did you mean \"bfloat16\"?)"},
      {"merge_method: linear\nout_dtype: int4\nmodels: [{model: a}]\n",
       "unknown out_dtype \"int4\"; bfloat16"},
      {"merge_method: passthrough\nslices: [{sources: [{model: a}]}]\n", "this has no \"layer_range\""},
      {"merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [4, 4]}]}]\n",
       "merge.yaml:2:45: \"layer_range\" should be [first, end)"},
      {"merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, x]}]}]\n",
       "two whole numbers from 0"},
      {"merge_method: passthrough\nslices: [{}]\n", "this slice has no \"sources\""},
      {"merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: "
       "[0, 3]}]}]\n",
       "this has 3 layers, the first source of its slice 4"},
      {"merge_method: slerp\nbase_model: z\nslices: [{sources: [{model: a, layer_range: [0, 4]}, {model: b, "
       "layer_range: [0, 4]}]}]\n",
       "slerp needs the base model \"z\" among the sources"},
      {"merge_method: linear\nmodels: [{model: a, parameters: {wieght: 1}}]\n",
       "linear has no parameter \"wieght\" (did you mean \"weight\"?)"},
  };
  for (const auto& [yaml, said] : kRows)
    EXPECT_NE(errors_of(yaml).find(said), std::string::npos) << yaml << "says: " << errors_of(yaml);
  const std::string several =
      errors_of("merge_method: slerp\ndtype: x\nmodels: [{model: a, parameters: {t: x}}]\n");
  EXPECT_EQ(std::ranges::count(several, '\n'), 3) << several;
}

TEST(MergeConfig, IsToldFromAMixture) {
  EXPECT_TRUE(is_merge_config(parse_yaml("merge_method: linear\nmodels: []\n", "x")));
  EXPECT_TRUE(is_merge_config(parse_yaml("slices: []\n", "x")));
  EXPECT_FALSE(is_merge_config(parse_yaml("base_model: a\nexperts: []\n", "x")));
  EXPECT_FALSE(is_merge_config(parse_yaml("base_model: a\n", "x")));
}

TEST(MergeConfig, OneModule) {
  const MergeConfig config = parse_merge_config(
      "merge_method: linear\nmodules:\n  default:\n    models: [{model: a}, {model: b}]\n    parameters: "
      "{weight: 2}\n"
      "parameters: {weight: 1, normalize: false}\n",
      "m.yaml");
  EXPECT_EQ(config.models(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(config.module_parameters.front().rules.front().points, std::vector<double>{2});
  EXPECT_THROW(
      parse_merge_config("merge_method: linear\nmodules: {a: {models: [{model: a}]}, b: {}}\n", "m.yaml"),
      Error);
  EXPECT_THROW(
      parse_merge_config("merge_method: linear\nmodels: [{model: a}]\nmodules: {a: {models: [{model: a}]}}\n",
                         "m.yaml"),
      Error);
}

}  // namespace
}  // namespace moerge
