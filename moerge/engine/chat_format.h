#pragma once
// Conversations as the text that a model was trained on: runs chat templates with llama.cpp's Jinja engine.

#include <chrono>
#include <span>
#include <string>

#include "moerge/engine/template_process.h"
#include "moerge/model/chat_templates.h"

namespace moerge {

/// A chat template, as TemplateProcess runs it: it may take `max_time` for a conversation.
class ChatFormat {
 public:
  /// `bos` and `eos`: the texts of the special tokens, empty where the model has none. `where` starts
  /// messages.
  ChatFormat(const std::string& template_text, const std::string& bos, const std::string& eos,
             std::string where, std::chrono::seconds max_time = std::chrono::seconds(10));

  /// As transformers' apply_chat_template(messages, tokenize=False). Throws input when the template is
  /// damaged, refuses the conversation, or exceeds the limits (and then at every further call).
  std::string render(std::span<const ChatMessage> messages);

 private:
  std::string bos_, eos_;
  TemplateProcess template_;
};

}  // namespace moerge
