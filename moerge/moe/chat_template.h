#pragma once
// The chat template of the output, when the configuration names one.

#include <optional>
#include <string>
#include <vector>

#include "moerge/moe/config.h"
#include "moerge/moe/outputs/output.h"

namespace moerge {

struct ChatTemplate {
  std::string text;
  std::string origin;  // for people: "built in: chatml"
};

/// Where it comes from, as the configuration says; empty where that says nothing.
std::string chat_template_origin(const MoeConfig& config);

/// Empty: the base's files stay as they are. Throws config when the model that is named has no template or
/// the base no tokenizer to put one beside, input for damaged files. Adds a warning when the base's tokenizer
/// lacks tokens that a built-in template writes.
std::optional<ChatTemplate> choose_chat_template(const MoeConfig& config, const MoeModels& models,
                                                 std::vector<std::string>& warnings);

}  // namespace moerge
