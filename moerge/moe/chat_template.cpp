#include "moerge/moe/chat_template.h"

#include <fmt/format.h>

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/base/utf8.h"
#include "moerge/model/chat_templates.h"
#include "moerge/model/tokenizer_files.h"

namespace moerge {
namespace {

using Kind = ChatTemplateChoice::Kind;

std::string quoted(const Model& model) { return fmt::format("\"{}\"", model.name); }

ChatTemplate template_of(const Model& model, const std::string& what, const std::string& place) {
  const std::optional<std::string> text = find_chat_template(model);
  if (!text || text->empty())
    fail(ErrorKind::config,
         "{}: {} {} has no chat template: name another model, a file or a built-in template, or leave "
         "\"chat_template\" out",
         place, what, quoted(model));
  return {*text, {}};
}

}  // namespace

std::string chat_template_origin(const MoeConfig& config) {
  const ChatTemplateChoice& choice = config.chat_template;
  switch (choice.kind) {
    case Kind::unchanged:
      break;
    case Kind::base:
      return fmt::format("of the base \"{}\"", config.base_model);
    case Kind::expert:
      return fmt::format("of expert \"{}\"", choice.value);
    case Kind::file:
      return fmt::format("file \"{}\"", choice.value);
    case Kind::built_in:
      return fmt::format("built in: {}", choice.value);
  }
  return "";
}

std::optional<ChatTemplate> choose_chat_template(const MoeConfig& config, const MoeModels& models,
                                                 std::vector<std::string>& warnings) {
  const ChatTemplateChoice& choice = config.chat_template;
  if (choice.kind == Kind::unchanged) return {};
  if (!has_tokenizer(*models.base))
    fail(ErrorKind::config,
         "{}: the base {} has no tokenizer, so there is nothing that a chat template could be for",
         choice.place, quoted(*models.base));
  ChatTemplate out;
  if (choice.kind == Kind::base) {
    out = template_of(*models.base, "the base", choice.place);
  } else if (choice.kind == Kind::expert) {
    out = template_of(*models.experts[choice.expert], "expert", choice.place);
  } else if (choice.kind == Kind::file) {
    out.text = read_template_file(choice.file);
  } else {
    const auto known = std::ranges::find(built_in_templates(), choice.value, &BuiltInTemplate::name);
    if (std::string cut = check_template_tokens(*known, *models.base); !cut.empty())
      warnings.push_back(fmt::format("{}: {}", choice.place, cut));
    out.text = known->text;
  }
  out.origin = chat_template_origin(config);
  if (out.text.empty()) fail(ErrorKind::config, "{}: {} is empty", choice.place, choice.file.string());
  if (!is_utf8(out.text)) fail(ErrorKind::input, "{}: that chat template is not UTF-8", choice.place);
  return out;
}

}  // namespace moerge
