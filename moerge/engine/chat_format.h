#pragma once
// Conversations as the text that a model was trained on: runs chat templates with llama.cpp's Jinja engine.

#include <chrono>
#include <span>
#include <string>

#include "moerge/model/chat_templates.h"

namespace moerge {

/// A chat template is a program by whoever made the model, and the engine limits neither its steps nor its
/// recursion. So it runs in a process of its own, which may take `max_time` and 512 MB for a conversation and
/// return 64 MB; a template that goes beyond that is an error and nothing worse. Not for several threads at
/// once.
class ChatFormat {
 public:
  /// `bos` and `eos`: the texts of the special tokens, empty where the model has none. `where` starts
  /// messages.
  ChatFormat(const std::string& template_text, const std::string& bos, const std::string& eos,
             std::string where, std::chrono::seconds max_time = std::chrono::seconds(10));
  ChatFormat(const ChatFormat&) = delete;
  ChatFormat& operator=(const ChatFormat&) = delete;
  ~ChatFormat();

  /// As transformers' apply_chat_template(messages, tokenize=False). Throws input when the template is
  /// damaged, refuses the conversation, or exceeds the limits (and then at every further call).
  std::string render(std::span<const ChatMessage> messages);

 private:
  void stop();
  [[noreturn]] void fail_ended();

  std::string where_, bos_, eos_;
  std::chrono::seconds max_time_;
  int socket_ = -1;
  int process_ = -1;
};

}  // namespace moerge
