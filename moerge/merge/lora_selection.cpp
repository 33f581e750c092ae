#include "moerge/merge/lora_selection.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/suggest.h"
#include "moerge/merge/extract_lora.h"

namespace moerge {
namespace {

std::string_view last_part(std::string_view module) { return module.substr(module.rfind('.') + 1); }

// The end of the name, from a point on.
bool ends_as(std::string_view module, std::string_view end) {
  return module == end || (module.size() > end.size() && module.ends_with(end) &&
                           module[module.size() - end.size() - 1] == '.');
}

std::string hint(const std::string& word, const std::vector<std::string>& modules) {
  std::set<std::string_view> parts;
  for (const std::string& module : modules) parts.insert(last_part(module));
  std::vector<std::string_view> candidates(parts.begin(), parts.end());
  const std::string_view last = last_part(word);
  std::string close = nearest(last, candidates);
  if (!close.empty() && last != close) return fmt::format("did you mean \"{}\"?", close);
  return fmt::format("their names end in {}", fmt::join(candidates, ", "));
}

std::vector<std::regex> compile(const char* flag, const std::vector<std::string>& patterns,
                                const std::vector<std::string>& modules) {
  std::vector<std::regex> out;
  for (const std::string& pattern : patterns) {
    try {
      out.emplace_back(pattern);
    } catch (const std::regex_error& error) {
      fail(ErrorKind::usage, "{} \"{}\": no regular expression ({})", flag, pattern, error.what());
    }
    if (std::ranges::none_of(modules, [&](const std::string& m) { return std::regex_search(m, out.back()); }))
      fail(ErrorKind::usage, "{} \"{}\": it matches none of the {} modules; {}", flag, pattern,
           modules.size(), hint(pattern, modules));
  }
  return out;
}

}  // namespace

LoraSelection::LoraSelection(const LoraOptions& options, const std::vector<std::string>& modules)
    : include_(compile("--include-regex", options.include, modules)),
      exclude_(compile("--exclude-regex", options.exclude, modules)),
      save_(options.save_modules) {
  for (const std::string& name : save_)
    if (std::ranges::none_of(modules, [&](const std::string& module) { return ends_as(module, name); }))
      fail(ErrorKind::usage, "--save-module \"{}\": there is no such module among the {}; {}", name,
           modules.size(), hint(name, modules));
}

bool LoraSelection::takes(const std::string& module) const {
  const auto matches = [&](const std::regex& expression) { return std::regex_search(module, expression); };
  if (std::ranges::any_of(exclude_, matches)) return false;
  return include_.empty() || saves(module) || std::ranges::any_of(include_, matches);
}

bool LoraSelection::saves(std::string_view module) const {
  return std::ranges::any_of(save_, [&](const std::string& name) { return ends_as(module, name); });
}

std::vector<std::string> short_names(std::span<const std::string> some, std::span<const std::string> all,
                                     bool whole_parts) {
  const std::set<std::string_view> wanted(some.begin(), some.end());
  std::set<std::string_view> partial;  // last parts that mean other modules too
  const auto means = [&](std::string_view module, std::string_view end) {
    return whole_parts ? ends_as(module, end) : module.ends_with(end);
  };
  std::set<std::string_view> parts;
  for (const std::string& module : some) parts.insert(last_part(module));
  for (const std::string& module : all)
    if (!wanted.contains(module))
      for (const std::string_view part : parts)
        if (means(module, part)) partial.insert(part);
  std::set<std::string> out;
  for (const std::string& module : some)
    out.emplace(partial.contains(last_part(module)) ? module : std::string(last_part(module)));
  return {out.begin(), out.end()};
}

}  // namespace moerge
