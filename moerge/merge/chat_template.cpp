#include "moerge/merge/chat_template.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "moerge/base/error.h"
#include "moerge/base/suggest.h"
#include "moerge/base/utf8.h"
#include "moerge/model/chat_templates.h"
#include "moerge/model/tokenizer_files.h"

namespace moerge {
namespace {

// What most models have; of several that are equally frequent the one that comes first.
std::optional<std::string> most_frequent(const MergeConfig& config, const OpenedModels& models,
                                         std::vector<std::string>& warnings) {
  std::vector<std::pair<std::string, int>> found;
  for (const std::string& reference : config.models()) {
    const std::optional<std::string> text = find_chat_template(*models.at(reference));
    if (!text || text->empty()) continue;
    const auto known = std::ranges::find(found, *text, &std::pair<std::string, int>::first);
    if (known == found.end())
      found.emplace_back(*text, 1);
    else
      known->second++;
  }
  if (found.empty()) {
    warnings.push_back(fmt::format("{}: none of the models has a chat template, so the result has none",
                                   config.chat_template_place));
    return {};
  }
  return std::ranges::max_element(found, {}, &std::pair<std::string, int>::second)->first;
}

[[noreturn]] void refuse(const MergeConfig& config, const std::filesystem::path& file) {
  std::vector<std::string_view> names = {"auto"};
  for (const BuiltInTemplate& known : built_in_templates()) names.push_back(known.name);
  const std::string known = fmt::format("{}", fmt::join(names, ", "));
  const std::vector<std::string> models = config.models();
  names.insert(names.end(), models.begin(), models.end());
  const std::string close = nearest(config.chat_template, names);
  fail(ErrorKind::config,
       "{}: unknown chat_template \"{}\"{}; possible are {}, a model as it is written here, a Jinja text, or "
       "a "
       "file (there is no {})",
       config.chat_template_place, config.chat_template,
       close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close), known, file.string());
}

std::optional<std::string> read_template(const MergeConfig& config, const OpenedModels& models,
                                         const Model& tokenizer, std::vector<std::string>& warnings) {
  const std::string& wanted = config.chat_template;
  if (wanted == "auto") return most_frequent(config, models, warnings);
  for (const BuiltInTemplate& known : built_in_templates()) {
    if (known.name != wanted) continue;
    if (const std::string cut = check_template_tokens(known, tokenizer); !cut.empty())
      warnings.push_back(fmt::format("{}: {}", config.chat_template_place, cut));
    return std::string(known.text);
  }
  if (const auto model = models.find(wanted); model != models.end()) {
    const std::optional<std::string> text = find_chat_template(*model->second);
    if (text && !text->empty()) return text;
    fail(ErrorKind::config, "{}: \"{}\" has no chat template", config.chat_template_place, wanted);
  }
  if (wanted.find('{') != std::string::npos) return wanted;
  const std::filesystem::path file = std::filesystem::path(config.file).parent_path() / wanted;
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) refuse(config, file);
  return read_template_file(file);
}

}  // namespace

std::optional<std::string> choose_merge_template(const MergeConfig& config, const OpenedModels& models,
                                                 const Model& tokenizer, std::vector<std::string>& warnings) {
  if (config.chat_template.empty()) return {};
  if (!has_tokenizer(tokenizer))
    fail(ErrorKind::config,
         "{}: \"{}\" has no tokenizer, so there is nothing that a chat template could be for",
         config.chat_template_place, tokenizer.name);
  std::optional<std::string> text = read_template(config, models, tokenizer, warnings);
  if (text && !is_utf8(*text))
    fail(ErrorKind::input, "{}: that chat template is not UTF-8", config.chat_template_place);
  return text;
}

}  // namespace moerge
