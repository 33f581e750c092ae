#pragma once
// One expert of a mixture, written as the dense model that it is with the mixture's attention.

#include <memory>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/model/model.h"
#include "moerge/plan/folder_layout.h"
#include "moerge/plan/plan.h"

namespace moerge {

struct ExtractPlan {
  std::unique_ptr<Model> model;  // the expert alone
  Plan plan;
  DType dtype;  // of the matrices
  std::vector<std::string> warnings;
  int64_t parameters = 0;
};

/// Every tensor keeps the type it is stored in; those of a GGUF file get the type of its config.json, float16
/// where it is quantised. Throws what opening a model throws, and input with every tensor that is missing or
/// has another shape than it should.
ExtractPlan plan_extract(const std::string& reference, const ModelLocation& location);

/// "expert 3 of 8", "the shared expert".
std::string describe_origin(const ExpertOrigin& origin);

/// What will be written, for people, and for scripts.
std::string extract_text(const ExtractPlan& extract, const FolderLayout& layout);
Json extract_json(const ExtractPlan& extract, const FolderLayout& layout);

}  // namespace moerge
