#pragma once
// The messages of a talk, and the file that holds them.

#include <filesystem>
#include <optional>
#include <string>

#include "moerge/base/json.h"

namespace moerge {

struct Talk {
  std::optional<std::string> system;
  Json messages = Json::array();  // [{"role": "user", "content": "..."}, ...], without the system message

  /// As the OpenAI API has them.
  Json all() const;
  void say(const char* role, const std::string& text);
  void drop_last() { messages.erase(messages.size() - 1); }
  bool last_is(const char* role) const;
};

/// {"messages": [...]} or the list alone. Texts in parts ([{"type": "text", "text": ...}]) are joined. Throws
/// io or input.
Talk load_talk(const std::filesystem::path& file);
/// Whole or not at all. Throws usage when there is a file that is no talk: it is not replaced.
void save_talk(const Talk& talk, const std::filesystem::path& file);

}  // namespace moerge
