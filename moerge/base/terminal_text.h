#pragma once
// Text by strangers on a terminal: nothing in it may control the terminal, and no character is shown in
// halves.

#include <string>
#include <string_view>

namespace moerge {

/// The text as it can be shown: control characters (but line ends and tabs), the escape sequences that begin
/// with them, and those that turn the direction of writing, as \\xNN or \\u{NNNN}; what is no UTF-8 as
/// U+FFFD.
class TerminalText {
 public:
  /// Of text that comes in parts; a character that is cut at the end waits for the next part.
  std::string add(std::string_view part);
  /// What is still waiting.
  std::string finish();

 private:
  std::string waiting_;
};

/// The same for a whole text.
std::string terminal_text(std::string_view text);

}  // namespace moerge
