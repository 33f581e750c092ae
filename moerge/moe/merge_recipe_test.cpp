#include "moerge/moe/merge_recipe.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"

namespace moerge {
namespace {

TEST(MergeRecipe, EachModelOnceWithWhatIsSaidOfIt) {
  const MergeRecipe recipe = parse_merge_recipe(
      "merge_method: passthrough\n"
      "slices:\n"
      "  - sources: [{model: a, layer_range: [0, 8]}]\n"
      "  - sources: [{model: b, layer_range: [4, 12], parameters: {scale: 0.5}}]\n"
      "  - sources: [{model: a, layer_range: [8, 16]}]\n",
      "m.yml");
  EXPECT_EQ(recipe.method, "passthrough");
  ASSERT_EQ(recipe.models.size(), 2u);
  EXPECT_EQ(recipe.models[0].reference, "a");
  EXPECT_EQ(recipe.models[0].statements, (std::vector<std::string>{"layers 0 to 7", "layers 8 to 15"}));
  EXPECT_EQ(recipe.models[1].statements, (std::vector<std::string>{"layers 4 to 11", "scale 0.5"}));
}

TEST(MergeRecipe, ModulesAndModelsAsMaps) {
  const MergeRecipe recipe = parse_merge_recipe(
      "modules:\n"
      "  text:\n"
      "    models:\n"
      "      - model: {model: {path: org/a, revision: v1}, lora: {path: who/l}}\n"
      "      - model: {path: org/b}\n"
      "base_model: {path: org/b}\n",
      "m.yml");
  ASSERT_EQ(recipe.models.size(), 2u);
  EXPECT_EQ(recipe.models[0].reference, "org/a@v1+who/l");
  EXPECT_EQ(recipe.models[1].reference, "org/b");
  EXPECT_EQ(recipe.models[1].statements, std::vector<std::string>{"the base"});
  EXPECT_EQ(recipe.method, "");
}

TEST(MergeRecipe, OddDocumentsDoNoHarm) {
  EXPECT_THROW(parse_merge_recipe("merge_method: linear\n", "m.yml"), Error);
  EXPECT_THROW(parse_merge_recipe("- a\n", "m.yml"), Error);
  EXPECT_THROW(parse_merge_recipe("models: 3\n", "m.yml"), Error);
  EXPECT_THROW(parse_merge_recipe("models: [a, {model: }, {model: [x]}]\n", "m.yml"), Error);
  const MergeRecipe recipe = parse_merge_recipe(
      "models: [{model: a, layer_range: [x, y], parameters: {weight: {a: b}, t: [[0]]}}, {model: a, "
      "parameters: 3}]\n",
      "m.yml");
  ASSERT_EQ(recipe.models.size(), 1u);
  EXPECT_EQ(recipe.models[0].statements,
            (std::vector<std::string>{"layers x to y", "weight by layer or tensor", "t by layer or tensor"}));
}

}  // namespace
}  // namespace moerge
