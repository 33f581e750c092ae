#pragma once
// The YAML of a dense merge (merge_method, models or slices), which mergekit leaves in the folder that it
// made: which models, and what is said of each. Read for model cards; nothing is merged here.

#include <string>
#include <string_view>
#include <vector>

namespace moerge {

struct MergedModel {
  std::string reference;                     // "org/name@revision+adapter"
  std::vector<std::string> statements = {};  // "the base", "weight 0.5", "layers 0 to 15"
};

struct MergeRecipe {
  std::string method;               // "slerp"; empty: not said
  std::vector<MergedModel> models;  // in the document's order, each once
};

/// Of several documents that build on each other the method is that of the one without a name. Throws config
/// when it is no such document.
MergeRecipe parse_merge_recipe(std::string_view yaml, const std::string& file);

}  // namespace moerge
