#include "moerge/merge/parameters.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"

namespace moerge {
namespace {

struct Read {
  ParameterSettings settings;
  std::string errors;
  std::vector<std::string> warnings;
};

Read read(const std::string& method, const std::string& yaml) {
  YamlProblems problems("merge.yaml");
  Read out;
  out.settings = read_parameters(parse_yaml(yaml, "merge.yaml"), *find_merge_method(method), problems);
  try {
    problems.throw_if_any();
  } catch (const Error& error) {
    out.errors = error.message();
  }
  out.warnings = problems.warnings();
  return out;
}

std::optional<double> value(const std::string& method, const std::string& yaml, const std::string& tensor,
                            double t) {
  const Read made = read(method, "parameters:\n" + yaml);
  EXPECT_EQ(made.errors, "") << yaml;
  return made.settings.empty() ? std::nullopt : evaluate(made.settings.back(), tensor, t);
}

TEST(MergeParameters, OneValueForAll) {
  EXPECT_EQ(value("slerp", "  t: 0.25\n", "model.norm.weight", 0), 0.25);
  EXPECT_EQ(value("slerp", "  t: 1e-1\n", "model.norm.weight", 1), 0.1);
  EXPECT_EQ(value("linear", "  normalize: false\n", "x", 1), 0);
  EXPECT_EQ(value("linear", "  normalize: True\n", "x", 1), 1);
  EXPECT_EQ(value("karcher", "  max_iter: 20\n", "x", 1), 20);
  EXPECT_EQ(value("slerp", "", "x", 1), std::nullopt);
}

TEST(MergeParameters, AlongTheLayers) {
  const std::string gradient = "  t: [0, 0.5, 0.3, 0.7, 1]\n";
  EXPECT_EQ(value("slerp", gradient, "x", 0), 0);
  EXPECT_EQ(value("slerp", gradient, "x", 0.25), 0.5);
  EXPECT_DOUBLE_EQ(value("slerp", gradient, "x", 0.375).value(), 0.4);
  EXPECT_EQ(value("slerp", gradient, "x", 1), 1);
  EXPECT_EQ(value("slerp", "  t: [0.5]\n", "x", 0.7), 0.5);
  EXPECT_EQ(value("linear", "  normalize: [true, false, true]\n", "x", 0.5), 0);  // flags do not blend
  EXPECT_EQ(value("linear", "  normalize: [true, false, true]\n", "x", 0.49), 1);
}

TEST(MergeParameters, TheFirstFilterThatFits) {
  const std::string rules =
      "  t:\n    - filter: self_attn\n      value: [0, 1]\n    - {filter: mlp, value: 0.2}\n    - value: "
      "0.5\n";
  EXPECT_EQ(value("slerp", rules, "model.layers.3.self_attn.q_proj.weight", 0.75), 0.75);
  EXPECT_EQ(value("slerp", rules, "model.layers.3.mlp.up_proj.weight", 0.75), 0.2);
  EXPECT_EQ(value("slerp", rules, "model.norm.weight", 0.75), 0.5);
  EXPECT_EQ(value("slerp", "  t: {filter: mlp, value: 0.2}\n", "model.norm.weight", 0), std::nullopt);
  EXPECT_EQ(value("slerp", "  t: [{filter: \"*\", value: 0.2}]\n", "model.norm.weight", 0), 0.2);
}

TEST(MergeParameters, WhatIsWrongIsSaidWithItsPlace) {
  const struct {
    const char *method, *yaml, *said;
  } kRows[] = {
      {"slerp", "  t: much\n", R"(merge.yaml:2:6: "t" should be a number, found "much")"},
      {"slerp", "  t: [0, nan]\n", R"(merge.yaml:2:10: "t" should be a number, found "nan")"},
      {"slerp", "  t: []\n", R"(merge.yaml:2:6: "t" is a list of 0 values)"},
      {"slerp", "  t: [{filter: mlp}]\n", R"("t" has a "filter" and no "value")"},
      {"slerp", "  t: [{filter: mlp, value: 1}, 2]\n", R"(each of several values of "t" should be a map)"},
      {"slerp", "  t: [{filtr: mlp, value: 1}]\n", R"(did you mean "filter"?)"},
      {"linear", "  normalize: 2\n", R"("normalize" should be true or false, found "2")"},
      {"karcher", "  max_iter: 2.5\n", R"("max_iter" should be a whole number, found "2.5")"},
      {"ties", "  densty: 0.5\n",
       R"(merge.yaml:2:3: ties has no parameter "densty" (did you mean "density"?))"},
  };
  for (const auto& [method, yaml, said] : kRows) {
    const std::string errors = read(method, std::string("parameters:\n") + yaml).errors;
    EXPECT_NE(errors.find(said), std::string::npos) << yaml << errors;
  }
  const Read other = read("slerp", "parameters:\n  density: 0.5\n");
  EXPECT_EQ(other.errors, "");
  ASSERT_EQ(other.warnings.size(), 1u);
  EXPECT_NE(other.warnings[0].find("slerp has no parameter \"density\", it is ignored (known: t)"),
            std::string::npos)
      << other.warnings[0];
}

}  // namespace
}  // namespace moerge
