// Rows of a .jsonl file, one a line.
#include "moerge/moe/text_rows.h"
#include "tests/fuzz/target.h"

using namespace moerge;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto join = [](const std::vector<ChatMessage>& messages) {
    std::string text;
    for (const ChatMessage& message : messages) text += message.role + ": " + message.content + "\n";
    return text;
  };
  return fuzz::run([&] {
    std::string_view rest = fuzz::text_of(data, size);
    while (!rest.empty()) {
      const size_t end = std::min(rest.find('\n'), rest.size());
      text_of_row(rest.substr(0, end), "rows.jsonl:1", join);
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  });
}
