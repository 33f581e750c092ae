#pragma once
// The chat template of a merged model, when its configuration names one.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moerge/merge/config.h"
#include "moerge/model/model.h"

namespace moerge {

using OpenedModels = std::map<std::string, std::shared_ptr<const Model>>;  // by reference

/// Empty: the files of `tokenizer`, the model whose tokenizer the result has, stay as they are.
/// "chat_template" is "auto" (the one that most of the models have), a built-in one, a model of the
/// configuration, a file beside it, or Jinja itself. Throws config for anything else, and for a model without
/// one; input for damaged files.
std::optional<std::string> choose_merge_template(const MergeConfig& config, const OpenedModels& models,
                                                 const Model& tokenizer, std::vector<std::string>& warnings);

}  // namespace moerge
