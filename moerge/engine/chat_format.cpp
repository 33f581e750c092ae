#include "moerge/engine/chat_format.h"

namespace moerge {

ChatFormat::ChatFormat(const std::string& template_text, const std::string& bos, const std::string& eos,
                       std::string where, std::chrono::seconds max_time)
    : bos_(bos),
      eos_(eos),
      template_({{.name = "the chat template", .text = template_text}}, std::move(where), max_time) {}

std::string ChatFormat::render(std::span<const ChatMessage> messages) {
  Json list = Json::array();
  for (const ChatMessage& message : messages)
    list.push_back({{"role", message.role}, {"content", message.content}});
  return template_.render(0, {{"messages", std::move(list)},
                              {"bos_token", bos_},
                              {"eos_token", eos_},
                              {"add_generation_prompt", false},
                              {"tools", nullptr},
                              {"documents", nullptr}});
}

}  // namespace moerge
