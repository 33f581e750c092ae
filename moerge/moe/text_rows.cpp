#include "moerge/moe/text_rows.h"

#include <array>
#include <optional>

#include "moerge/base/error.h"
#include "moerge/base/json.h"

namespace moerge {
namespace {

// Where a conversation's parts are.
struct Dialect {
  const char *list, *role, *content;
};
constexpr Dialect kDialects[] = {{"messages", "role", "content"}, {"conversations", "from", "value"}};

// Members that are read; "type" and "text" are also those of a message in parts.
constexpr std::array<std::string_view, 8> kMembers = {"text", "messages", "conversations", "content",
                                                      "role", "from",     "value",         "type"};

// ShareGPT's names for the roles that templates know.
std::string role_of(const std::string& name) {
  if (name == "human") return "user";
  if (name == "gpt") return "assistant";
  return name;
}

const Json* find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

// A text, nothing (a message that only calls a tool), or a list of parts whose texts count.
std::string content_of(const Json& message, const char* key, const std::string& where) {
  const Json* content = find(message, key);
  if (!content) return "";
  if (!content->is_array()) return *json_string(message, key, where);
  std::string text;
  for (const Json& part : *content) {
    if (!part.is_object())
      fail(ErrorKind::input, "{}: a part of \"{}\" should be an object, found {}", where, key,
           part.type_name());
    text += json_string(part, "text", where).value_or("");
  }
  return text;
}

std::vector<ChatMessage> read_messages(const Json& list, const Dialect& dialect, const std::string& where) {
  if (!list.is_array())
    fail(ErrorKind::input, "{}: \"{}\" should be a list of messages, found {}", where, dialect.list,
         list.type_name());
  std::vector<ChatMessage> messages;
  for (const Json& message : list) {
    if (!message.is_object())
      fail(ErrorKind::input, "{}: a message of \"{}\" should be an object, found {}", where, dialect.list,
           message.type_name());
    const std::optional<std::string> role = json_string(message, dialect.role, where);
    if (!role)
      fail(ErrorKind::input, "{}: a message of \"{}\" has no \"{}\"", where, dialect.list, dialect.role);
    messages.push_back({role_of(*role), content_of(message, dialect.content, where)});
  }
  return messages;
}

Json parse_row(std::string_view row, const std::string& where) {
  try {
    return parse_json_only(kMembers, row, where);
  } catch (const Error& error) {
    // The parser counts lines within the row.
    std::string message = error.message();
    if (const size_t at = message.find("at line 1, column "); at != std::string::npos)
      message.erase(at + 3, 8);
    if (message.starts_with(where + ": not valid JSON"))
      message += " (each line should be a whole JSON object)";
    throw Error(error.kind(), message);
  }
}

}  // namespace

std::string text_of_row(std::string_view row, const std::string& where, const ChatFormatter& chat) {
  const Json json = parse_row(row, where);
  if (!json.is_object())
    fail(ErrorKind::input, "{}: each line should be a JSON object, found {}", where, json.type_name());
  if (find(json, "text")) return *json_string(json, "text", where);
  for (const Dialect& dialect : kDialects)
    if (const Json* list = find(json, dialect.list)) {
      const std::vector<ChatMessage> messages = read_messages(*list, dialect, where);
      if (messages.empty()) return "";
      try {
        return chat(messages);
      } catch (const Error& error) {
        if (error.kind() == ErrorKind::interrupted) throw;
        fail(error.kind(), "{}: {}", where, error.message());
      }
    }
  if (find(json, "content")) return *json_string(json, "content", where);
  fail(ErrorKind::input,
       "{}: this row has no text: \"text\" or \"content\" (a string), \"messages\" (a list of {{\"role\", "
       "\"content\"}}) or \"conversations\" (a list of {{\"from\", \"value\"}}) is read",
       where);
}

}  // namespace moerge
