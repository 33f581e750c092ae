#pragma once
// What the user of a talk says: from a terminal or from a pipe, in one line or several.

#include <memory>
#include <string>

#include "moerge/cli/line_editor.h"

namespace moerge {

class MessageInput {
 public:
  /// `terminal`: a descriptor to draw the line that is being written on, or -1 to read plain lines.
  MessageInput(ChatSignals& signals, int terminal, bool colour);

  /// A line; with those that follow one that ends in a backslash, or all between two lines of """.
  InputEnd next(std::string& message);
  /// The message was one line as it was typed, so it may be a command.
  bool single_line() const { return single_line_; }

 private:
  InputEnd line(std::string_view prompt, std::string& out);
  InputEnd plain_line(std::string& out);

  ChatSignals& signals_;
  std::unique_ptr<LineEditor> editor_;
  std::string bytes_;  // read and not yet used
  bool single_line_ = true, at_end_ = false;
};

}  // namespace moerge
