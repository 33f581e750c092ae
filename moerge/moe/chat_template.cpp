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
  return {*text, fmt::format("of {} {}", what, quoted(model))};
}

// Tokens that the tokenizer would cut up into several.
void check_tokens(const BuiltInTemplate& known, const Model& base, const std::string& place,
                  std::vector<std::string>& warnings) {
  std::vector<std::string_view> missing;
  try {
    if (known.tokens.empty()) return;
    const Tokenizer tokenizer = read_tokenizer(base);
    for (const std::string_view token : known.tokens)
      if (tokenizer.encode(token).size() != 1) missing.push_back(token);
  } catch (const Error& error) {
    warnings.push_back(
        fmt::format("{}: whether the base has the tokens {} of that template cannot be checked: {}", place,
                    fmt::join(known.tokens, ", "), error.message()));
    return;
  }
  if (!missing.empty())
    warnings.push_back(fmt::format(
        "{}: the chat template \"{}\" writes {}, which the tokenizer of {} cuts up into several tokens: the "
        "result was not trained on {}",
        place, known.name, fmt::join(missing, ", "), quoted(base), missing.size() == 1 ? "it" : "them"));
}

}  // namespace

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
    out = {read_template_file(choice.file), fmt::format("file \"{}\"", choice.value)};
  } else {
    const auto known = std::ranges::find(built_in_templates(), choice.value, &BuiltInTemplate::name);
    check_tokens(*known, *models.base, choice.place, warnings);
    out = {std::string(known->text), fmt::format("built in: {}", known->name)};
  }
  if (out.text.empty()) fail(ErrorKind::config, "{}: {} is empty", choice.place, choice.file.string());
  if (!is_utf8(out.text)) fail(ErrorKind::input, "{}: that chat template is not UTF-8", choice.place);
  return out;
}

}  // namespace moerge
