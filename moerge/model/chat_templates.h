#pragma once
// Chat templates: Jinja programs that turn a conversation into a prompt, as transformers' apply_chat_template
// and llama.cpp run them. Those that a model brings, and a few that are built in.

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "moerge/model/model.h"

namespace moerge {

/// One message of a conversation.
struct ChatMessage {
  std::string role, content;
};

struct BuiltInTemplate {
  std::string_view name, text;
  std::span<const std::string_view> tokens;  // what it writes and a tokenizer should have as one token each
};

std::span<const BuiltInTemplate> built_in_templates();

/// What a maker of models should know of a built-in template beside this model's tokenizer: that it cuts up
/// some of the template's tokens, or that this cannot be found out. Empty: all is well.
std::string check_template_tokens(const BuiltInTemplate& known, const Model& model);

/// A text file as Python reads it: line ends are "\n". Throws input when it is not UTF-8 or larger than any
/// template.
std::string read_template_file(const std::filesystem::path& file);

/// The template of a model as transformers finds it: chat_template.jinja, then "chat_template" of
/// tokenizer_config.json (of a list the one called "default", or the only one), then chat_template.json; a
/// GGUF file's metadata. Empty when there is none. Throws input for damaged files, and for a list without a
/// default.
std::optional<std::string> find_chat_template(const Model& model);
/// The same of a model folder.
std::optional<std::string> find_chat_template(const std::filesystem::path& folder);

}  // namespace moerge
