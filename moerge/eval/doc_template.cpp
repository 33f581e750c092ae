#include "moerge/eval/doc_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "moerge/base/error.h"
#include "moerge/base/suggest.h"

namespace moerge {
namespace {

constexpr size_t kMaxShown = 60;

std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "...";
  return text;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && std::string_view(" \t\r\n").find(text.front()) != std::string_view::npos)
    text.remove_prefix(1);
  while (!text.empty() && std::string_view(" \t\r\n").find(text.back()) != std::string_view::npos)
    text.remove_suffix(1);
  return text;
}

// Calls see(position, depth of brackets) for each character outside of quoted texts; false: it does not add
// up.
template <typename See>
bool scan(std::string_view text, See see) {
  int depth = 0;
  char quote = 0;
  for (size_t i = 0; i < text.size(); i++) {
    const char c = text[i];
    if (quote) {
      if (c == '\\')
        i++;
      else if (c == quote)
        quote = 0;
      continue;
    }
    if (c == '"' || c == '\'') quote = c;
    if (c == ')' || c == ']' || c == '}') depth--;
    if (depth < 0) return false;
    see(i, depth);
    if (c == '(' || c == '[' || c == '{') depth++;
  }
  return !quote && depth == 0;
}

// What is between the braces of "{{ ... }}", when that is all of the text.
std::optional<std::string_view> single_expression(std::string_view text) {
  if (!text.starts_with("{{") || !text.ends_with("}}") || text.size() < 4) return {};
  std::string_view inner = text.substr(2, text.size() - 4);
  if (inner.starts_with('-')) inner.remove_prefix(1);
  if (inner.ends_with('-')) inner.remove_suffix(1);
  inner = trimmed(inner);
  for (const std::string_view mark : {"{{", "{%", "%}", "{#"})
    if (inner.find(mark) != std::string_view::npos) return {};
  if (inner.empty() || !scan(inner, [](size_t, int) {})) return {};
  return inner;
}

// LIST and VALUE of "LIST.index(VALUE)".
std::optional<std::pair<std::string_view, std::string_view>> index_call(std::string_view expression) {
  constexpr std::string_view kCall = ".index(";
  size_t at = std::string_view::npos;
  bool is_one = true;  // nothing but the list before, nothing after
  scan(expression, [&](size_t i, int depth) {
    if (depth > 0) return;
    if (expression.substr(i).starts_with(kCall)) at = i;
    if (std::string_view("+-*/%~|,<>=! ").find(expression[i]) != std::string_view::npos) is_one = false;
  });
  if (at == std::string_view::npos || !is_one || !expression.ends_with(')')) return {};
  const std::string_view list = expression.substr(0, at);
  const std::string_view value =
      expression.substr(at + kCall.size(), expression.size() - at - kCall.size() - 1);
  if (list.empty() || trimmed(value).empty() || !scan(value, [](size_t, int) {})) return {};
  return std::pair(list, value);
}

bool is_name(std::string_view text) {
  return !text.empty() && !(text[0] >= '0' && text[0] <= '9') && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

}  // namespace

size_t DocTemplates::source(const std::string& name, const std::string& text) {
  sources_.push_back({.name = name, .text = text, .strict = true});
  return sources_.size() - 1;
}

size_t DocTemplates::add(std::string name, const std::string& text) {
  Field field = {.name = std::move(name), .source = text};
  if (text.find("{{") != std::string::npos || text.find("{%") != std::string::npos ||
      text.find("{#") != std::string::npos) {
    field.kind = Kind::text;
    field.plain = source(field.name, text);
    if (const auto expression = single_expression(text)) {
      const auto call = index_call(*expression);
      field.kind = call ? Kind::index : Kind::expression;
      field.json =
          source(field.name, call ? fmt::format("{{{{ [({}), ({})] | tojson }}}}", call->first, call->second)
                                  : fmt::format("{{{{ [({})] | tojson }}}}", *expression));
      // What says which name is not defined; tojson does not.
      if (call)
        field.plain =
            source(field.name, fmt::format("{{{{ ({}) }}}}{{{{ ({}) }}}}", call->first, call->second));
    }
  }
  fields_.push_back(std::move(field));
  return fields_.size() - 1;
}

void DocTemplates::start(const std::string& where) {
  process_ = std::make_unique<TemplateProcess>(std::move(sources_), where);
}

std::string DocTemplates::rendered(size_t source, const Field& field, const Json& doc,
                                   const std::string& where) {
  try {
    return process_->render(source, doc, where);
  } catch (const Error& error) {
    // The engine does not say which.
    if (error.message().find("\"object_property\" is not defined") == std::string::npos) throw;
  }
  fail(ErrorKind::input, "{}: {} asks for a member that is not there: {}", where, field.name, field.source);
}

// A list of the values of the field's expressions.
Json DocTemplates::rendered_json(const Field& field, const Json& doc, const std::string& where) {
  Json values = parse_json(rendered(field.json, field, doc, where), fmt::format("{}: {}", where, field.name));
  const auto is_null = [](const Json& item) { return item.is_null(); };
  bool has_nothing = std::ranges::any_of(values, is_null);
  for (const Json& value : values)
    has_nothing = has_nothing || (value.is_array() && std::ranges::any_of(value, is_null));
  if (!has_nothing) return values;
  rendered(field.plain, field, doc, where);
  fail(ErrorKind::input, "{}: {} finds nothing (null): {}", where, field.name, field.source);
}

Json DocTemplates::position(const Field& field, const Json& doc, const std::string& where) {
  const Json pair = rendered_json(field, doc, where);
  const Json &list = pair.at(0), &value = pair.at(1);
  if (list.is_string() && value.is_string()) {
    const std::string &text = list.get_ref<const std::string&>(), &part = value.get_ref<const std::string&>();
    if (const size_t at = text.find(part); at != std::string::npos)
      return std::ranges::count_if(text.substr(0, at), [](char c) { return (c & 0xc0) != 0x80; });
  } else if (list.is_array()) {
    if (const auto found = std::ranges::find(list, value); found != list.end()) return found - list.begin();
  } else {
    fail(ErrorKind::input, "{}: {} asks for a place in what is no list: {}", where, field.name, shown(list));
  }
  fail(ErrorKind::input, "{}: {}: {} is not in {}", where, field.name, shown(value), shown(list));
}

Json DocTemplates::value(size_t index, const Json& doc, const std::string& where) {
  const Field& field = fields_[index];
  switch (field.kind) {
    case Kind::bare:
      if (const auto member = doc.find(field.source); member != doc.end()) return *member;
      return field.source;
    case Kind::text:
      return rendered(field.plain, field, doc, where);
    case Kind::expression:
      return rendered_json(field, doc, where).at(0);
    case Kind::index:
      return position(field, doc, where);
  }
  return nullptr;
}

std::string DocTemplates::text(size_t index, const Json& doc, const std::string& where) {
  const Field& field = fields_[index];
  if (field.kind == Kind::bare && !doc.contains(field.source) && is_name(field.source)) {
    std::vector<std::string_view> names;
    for (const auto& member : doc.items()) names.push_back(member.key());
    const std::string close = nearest(field.source, names);
    fail(ErrorKind::input, "{}: {} is \"{}\", and there is no such member{}", where, field.name, field.source,
         close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close));
  }
  const Json found = value(index, doc, where);
  if (found.is_string()) return found.get<std::string>();
  if (field.kind == Kind::expression) return rendered(field.plain, field, doc, where);
  if (found.is_null())
    fail(ErrorKind::input, "{}: {} finds nothing (null): {}", where, field.name, field.source);
  return found.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace moerge
