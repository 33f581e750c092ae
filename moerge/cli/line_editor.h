#pragma once
// A line typed into a terminal: editing keys, history, pasted text. (llama.cpp's common/console.h has the
// like, but takes away a slash at the end of a line, ends at a letter beyond ASCII where no locale is set,
// and hangs at control keys on terminals that do not report the cursor.)

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/cli/chat_signals.h"

namespace moerge {

enum class InputEnd { line, end, interrupted };

/// The text and the cursor in it, without a terminal.
class EditedLine {
 public:
  /// History, the latest last; it stays the caller's.
  explicit EditedLine(const std::vector<std::string>& history) : history_(history) {}

  const std::string& text() const { return text_; }
  size_t cursor() const { return cursor_; }  // in bytes

  enum class Effect { none, changed, enter, end, redraw };
  /// What a key does: one character, or a whole escape sequence.
  Effect key(std::string_view key);
  void insert(std::string_view text);

 private:
  size_t before(size_t at) const;
  size_t after(size_t at) const;
  size_t word_before() const;
  size_t word_after() const;
  void erase(size_t from, size_t to);
  void recall(int direction);

  const std::vector<std::string>& history_;
  size_t from_end_ = 0;  // of history: 0 is the line being written
  std::string text_, written_;
  size_t cursor_ = 0;
};

/// The first key in `bytes`: a character or an escape sequence; empty when more bytes are needed.
std::string_view first_key(std::string_view bytes);

/// How a text lies on a terminal of so many columns.
struct TextRows {
  std::vector<std::string> rows;
  size_t cursor_row = 0, cursor_column = 0;
};
TextRows lay_out(std::string_view prompt, std::string_view text, size_t cursor, size_t columns);

/// Standard input must be a terminal, in the state that ChatSignals puts it into.
class LineEditor {
 public:
  /// `output`: a descriptor of the terminal. `colour`: the prompt may have one.
  LineEditor(ChatSignals& signals, int output, bool colour);

  InputEnd read(std::string_view prompt, std::string& line);
  void remember(const std::string& line);

 private:
  bool more();  // waits for bytes or a signal; false at the end
  void paint(std::string_view prompt, const EditedLine& line);
  void put(std::string_view text);

  ChatSignals& signals_;
  int output_;
  bool colour_;
  std::string bytes_;  // typed and not yet used
  std::vector<std::string> history_;
  size_t painted_row_ = 0;  // of the cursor, below the first row of what is painted
};

}  // namespace moerge
