#include "moerge/eval/doc_steps.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "moerge/base/error.h"
#include "moerge/base/suggest.h"
#include "moerge/eval/python_random.h"
#include "moerge/eval/python_text.h"

namespace moerge {
namespace {

// The member that a step names.
Json& member_of(Json& doc, const std::string& name, const std::string& where) {
  if (const auto found = doc.find(name); found != doc.end()) return *found;
  std::vector<std::string_view> names;
  for (const auto& member : doc.items()) names.push_back(member.key());
  const std::string close = nearest(name, names);
  fail(ErrorKind::input, "{}: there is no \"{}\"{}", where, name,
       close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close));
}

void change_texts(Json& value, const std::string& name, const std::string& where,
                  const std::function<std::string(const std::string&)>& change) {
  if (value.is_string()) {
    value = change(value.get_ref<const std::string&>());
    return;
  }
  if (!value.is_array())
    fail(ErrorKind::input, "{}: \"{}\" should be a text or a list of texts, found {}", where, name,
         value.type_name());
  for (Json& item : value) {
    if (!item.is_string())
      fail(ErrorKind::input, "{}: \"{}\" should be a list of texts, found {} in it", where, name,
           item.type_name());
    item = change(item.get_ref<const std::string&>());
  }
}

std::string replaced(const std::string& text, const std::string& what, const std::string& by) {
  std::string out;
  size_t start = 0;
  for (size_t at; (at = text.find(what, start)) != std::string::npos; start = at + what.size()) {
    out.append(text, start, at - start);
    out += by;
  }
  return out.append(text, start);
}

void permute(Json& list, uint32_t seed, const std::string& name, const std::string& where) {
  std::vector<std::string> texts;
  if (list.is_array())
    for (const Json& item : list)
      if (item.is_string()) texts.push_back(item.get<std::string>());
  if (!list.is_array() || texts.size() != list.size())
    fail(ErrorKind::input, "{}: \"{}\" should be a list of texts", where, name);
  std::ranges::sort(texts);  // UTF-8 sorts as code points do
  const std::vector<size_t> order = numpy_permutation(seed, texts.size());
  for (size_t i = 0; i < order.size(); i++) list[i] = texts[order[i]];
}

Json paired(const Json& keys, const Json& values, const std::string& where) {
  if (!keys.is_array() || !values.is_array() || keys.size() != values.size())
    fail(ErrorKind::input, "{}: keys and values should be lists of the same length", where);
  Json out = Json::object();
  for (size_t i = 0; i < keys.size(); i++) {
    if (!keys[i].is_string())
      fail(ErrorKind::input, "{}: keys should be texts, found {}", where, keys[i].type_name());
    out[keys[i].get<std::string>()] = values[i];
  }
  return out;
}

std::string name_of(const DocStep& step) {
  using enum DocStep::Kind;
  switch (step.kind) {
    case set:
      return fmt::format("process_docs (set {})", step.member);
    case strip:
      return fmt::format("process_docs (strip {})", step.member);
    case capitalize:
      return fmt::format("process_docs (capitalize {})", step.member);
    case replace:
      return fmt::format("process_docs (replace {})", step.member);
    case remove:
      return fmt::format("process_docs (remove {})", step.member);
    case permute:
      return fmt::format("process_docs (permute {})", step.member);
    case pair:
      return fmt::format("process_docs (pair {})", step.member);
    case keep:
      return "process_docs (keep)";
  }
  return "";
}

}  // namespace

DocSteps::DocSteps(const Task& task, DocTemplates& templates) : templates_(templates) {
  for (const DocStep& step : task.process_docs) {
    Step& added = steps_.emplace_back(Step{.step = step, .value = 0, .pattern = {}});
    if (step.kind == DocStep::Kind::set || step.kind == DocStep::Kind::keep)
      added.value = templates.add(name_of(step), step.text);
    if (step.kind == DocStep::Kind::remove)
      added.pattern.emplace_back(step.text, fmt::format("{}: {}", task.task, name_of(step)));
    selects_ = selects_ || step.kind == DocStep::Kind::keep;
  }
}

Json DocSteps::apply(const Document& document) {
  if (!document.members.is_object())
    fail(ErrorKind::input, "{}: an item should be an object with members, found {}", document.where,
         document.members.type_name());
  Json doc = document.members;
  for (const Step& made : steps_) {
    const DocStep& step = made.step;
    const auto place = [&] { return fmt::format("{}: {}", document.where, name_of(step)); };
    const auto change = [&](const std::function<std::string(const std::string&)>& how) {
      change_texts(member_of(doc, step.member, place()), step.member, place(), how);
    };
    using enum DocStep::Kind;
    switch (step.kind) {
      case set:
        doc[step.member] = templates_.value(made.value, doc, document.where);
        break;
      case strip:
        change([](const std::string& text) { return std::string(stripped(text)); });
        break;
      case capitalize:
        change([](const std::string& text) { return capitalized(text); });
        break;
      case replace:
        change([&](const std::string& text) { return replaced(text, step.text, step.by); });
        break;
      case remove:
        change([&](const std::string& text) { return made.pattern[0].replace_all(text, ""); });
        break;
      case permute:
        moerge::permute(member_of(doc, step.member, place()), step.seed, step.member, place());
        break;
      case pair:
        doc[step.member] =
            paired(member_of(doc, step.text, place()), member_of(doc, step.by, place()), place());
        break;
      case keep: {
        const Json kept = templates_.value(made.value, doc, document.where);
        if (!kept.is_boolean())
          fail(ErrorKind::input, "{}: should be true or false, found {}", place(), kept.type_name());
        if (!kept.get<bool>()) return nullptr;
      }
    }
  }
  return doc;
}

}  // namespace moerge
