#include "moerge/cli/chat_talk.h"

#include <span>

#include "moerge/base/error.h"
#include "moerge/base/partial_file.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxTalk = 64 << 20;
constexpr std::string_view kForm = "{\"messages\": [{\"role\": \"user\", \"content\": \"...\"}, ...]}";

std::string content_text(const Json& message, const std::string& where) {
  const auto content = message.find("content");
  if (content == message.end()) fail(ErrorKind::input, "{}: \"content\" is missing", where);
  if (content->is_string()) return content->get<std::string>();
  std::string text;
  bool fits = content->is_array();
  if (fits)
    for (const Json& part : *content) {
      fits = fits && part.is_object() && part.contains("text") && part["text"].is_string();
      if (fits) text += part["text"].get<std::string>();
    }
  if (!fits) fail(ErrorKind::input, "{}: \"content\" is no text", where);
  return text;
}

}  // namespace

Json Talk::all() const {
  Json out = Json::array();
  if (system) out.push_back({{"role", "system"}, {"content", *system}});
  for (const Json& message : messages) out.push_back(message);
  return out;
}

void Talk::say(const char* role, const std::string& text) {
  messages.push_back({{"role", role}, {"content", text}});
}

bool Talk::last_is(const char* role) const { return !messages.empty() && messages.back()["role"] == role; }

Talk load_talk(const fs::path& file) {
  std::error_code error;
  if (!fs::exists(file, error)) fail(ErrorKind::usage, "\"{}\": there is no such file", file.string());
  const Json json = read_json(file, kMaxTalk);
  const Json* list = &json;
  if (json.is_object() && json.contains("messages")) list = &json["messages"];
  if (!list->is_array())
    fail(ErrorKind::input, "{}: no talk: {} is expected, or the list alone", file.string(), kForm);
  Talk talk;
  for (size_t i = 0; i < list->size(); i++) {
    const Json& message = (*list)[i];
    const std::string where = fmt::format("{}: message {}", file.string(), i + 1);
    if (!message.is_object()) fail(ErrorKind::input, "{} is no object: {} is expected", where, kForm);
    const std::string role = json_string(message, "role", where).value_or("");
    if (role != "system" && role != "user" && role != "assistant")
      fail(ErrorKind::input, "{}: its \"role\" is \"{}\", expected system, user or assistant", where, role);
    const std::string text = content_text(message, where);
    if (i == 0 && role == "system")
      talk.system = text;
    else
      talk.say(role.c_str(), text);
  }
  return talk;
}

void save_talk(const Talk& talk, const fs::path& file) {
  if (fs::exists(fs::symlink_status(file))) {
    try {
      load_talk(file);
    } catch (const Error& error) {
      fail(ErrorKind::usage, "\"{}\" exists and is no talk, so it is not replaced: choose another name",
           file.string());
    }
  }
  const std::string text = json_text({{"messages", talk.all()}});
  PartialFile out(file);
  out.file().write_at(0, std::as_bytes(std::span(text)));
  out.commit();
}

}  // namespace moerge
