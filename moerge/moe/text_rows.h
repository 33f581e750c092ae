#pragma once
// The text of a row of a .jsonl file.

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/model/chat_templates.h"

namespace moerge {

/// A conversation as one text. Throws.
using ChatFormatter = std::function<std::string(const std::vector<ChatMessage>&)>;

/// Of "text", "messages" ({role, content}, as OpenAI has them), "conversations" ({from, value}, as ShareGPT
/// has them) or "content", the first that is there; conversations through `chat`. Throws input for what is no
/// such object; `where` ("FILE:LINE") starts the message.
std::string text_of_row(std::string_view row, const std::string& where, const ChatFormatter& chat);

}  // namespace moerge
