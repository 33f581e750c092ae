#include "moerge/cli/line_editor.h"

#include <fmt/format.h>
#include <locale.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include <algorithm>
#include <cerrno>

#include "moerge/base/terminal_text.h"
#include "moerge/base/utf8.h"

namespace moerge {
namespace {

constexpr std::string_view kPasteBegin = "\033[200~", kPasteEnd = "\033[201~";
constexpr size_t kMaxHistory = 1000;
constexpr size_t kTab = 4;
constexpr int kSequenceMs = 50;  // a lone Escape key is followed by nothing for so long

size_t character_length(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

size_t columns_of(std::string_view character) {
  if (character.size() == 1) return 1;
  const int width =
      wcwidth(static_cast<wchar_t>(code_point(character)));  // by the table of the C.UTF-8 locale, set below
  return width < 0 ? 1 : static_cast<size_t>(width);
}

bool is_word(char c) { return c != ' ' && c != '\n' && c != '\t'; }

}  // namespace

// -------- the text

size_t EditedLine::before(size_t at) const {
  if (at > 0) at--;
  while (at > 0 && is_continuation(text_[at])) at--;
  return at;
}

size_t EditedLine::after(size_t at) const {
  if (at < text_.size()) at++;
  while (at < text_.size() && is_continuation(text_[at])) at++;
  return at;
}

size_t EditedLine::word_before() const {
  size_t at = cursor_;
  while (at > 0 && !is_word(text_[at - 1])) at--;
  while (at > 0 && is_word(text_[at - 1])) at--;
  return at;
}

size_t EditedLine::word_after() const {
  size_t at = cursor_;
  while (at < text_.size() && !is_word(text_[at])) at++;
  while (at < text_.size() && is_word(text_[at])) at++;
  return at;
}

void EditedLine::erase(size_t from, size_t to) {
  text_.erase(from, to - from);
  cursor_ = from;
}

void EditedLine::insert(std::string_view text) {
  text_.insert(cursor_, text);
  cursor_ += text.size();
}

void EditedLine::recall(int direction) {
  if (direction > 0 ? from_end_ >= history_.size() : from_end_ == 0) return;
  if (from_end_ == 0) written_ = text_;
  from_end_ += static_cast<size_t>(direction);
  text_ = from_end_ == 0 ? written_ : history_[history_.size() - from_end_];
  cursor_ = text_.size();
}

EditedLine::Effect EditedLine::key(std::string_view key) {
  const auto is = [&](std::initializer_list<std::string_view> keys) {
    return std::ranges::find(keys, key) != keys.end();
  };
  if (is({"\r", "\n"})) return Effect::enter;
  if (is({"\x04"}) && text_.empty()) return Effect::end;
  if (is({"\x0c"})) return Effect::redraw;  // ctrl-L
  if (is({"\x7f", "\x08"}))
    erase(before(cursor_), cursor_);
  else if (is({"\033[3~", "\x04"}))
    erase(cursor_, after(cursor_));
  else if (is({"\x17", "\033\x7f"}))  // ctrl-W
    erase(word_before(), cursor_);
  else if (is({"\x15"}))  // ctrl-U
    erase(0, cursor_);
  else if (is({"\x0b"}))  // ctrl-K
    erase(cursor_, text_.size());
  else if (is({"\033[D", "\033OD", "\x02"}))
    cursor_ = before(cursor_);
  else if (is({"\033[C", "\033OC", "\x06"}))
    cursor_ = after(cursor_);
  else if (is({"\033[1;5D", "\033[1;3D", "\033b"}))
    cursor_ = word_before();
  else if (is({"\033[1;5C", "\033[1;3C", "\033f"}))
    cursor_ = word_after();
  else if (is({"\033[H", "\033OH", "\033[1~", "\033[7~", "\x01"}))
    cursor_ = 0;
  else if (is({"\033[F", "\033OF", "\033[4~", "\033[8~", "\x05"}))
    cursor_ = text_.size();
  else if (is({"\033[A", "\033OA", "\x10"}))
    recall(1);
  else if (is({"\033[B", "\033OB", "\x0e"}))
    recall(-1);
  else if (!key.empty() && (static_cast<unsigned char>(key[0]) >= 0x20 || key == "\t"))
    insert(terminal_text(key));
  else
    return Effect::none;
  return Effect::changed;
}

std::string_view first_key(std::string_view bytes) {
  if (bytes.empty()) return {};
  if (bytes[0] != '\033') {
    size_t length = 1;
    const size_t promised = character_length(bytes[0]);
    while (length < promised && length < bytes.size() && is_continuation(bytes[length])) length++;
    if (length < promised && length == bytes.size()) return {};
    return bytes.substr(0, length);
  }
  if (bytes.size() == 1) return {};
  if (bytes[1] == 'O') return bytes.size() < 3 ? std::string_view() : bytes.substr(0, 3);
  if (bytes[1] != '[') return bytes.substr(0, 2);
  for (size_t at = 2; at < bytes.size(); at++) {
    if (bytes[at] >= 0x40 && bytes[at] <= 0x7e) return bytes.substr(0, at + 1);
    if (bytes[at] < 0x20) return bytes.substr(0, at);  // broken off
  }
  return {};
}

// -------- the terminal

TextRows lay_out(std::string_view prompt, std::string_view text, size_t cursor, size_t columns) {
  TextRows out;
  out.rows.emplace_back(prompt);
  size_t column = 0;
  for (const char c : prompt) column += is_continuation(c) ? 0 : 1;
  const auto next_row = [&] {
    out.rows.emplace_back();
    column = 0;
  };
  for (size_t at = 0; at <= text.size();) {
    if (at == cursor) {
      if (column >= columns) next_row();
      out.cursor_row = out.rows.size() - 1;
      out.cursor_column = column;
    }
    if (at == text.size()) break;
    const std::string_view character = text.substr(at, character_length(text[at]));
    at += character.size();
    if (character == "\n") {
      next_row();
      continue;
    }
    const bool tab = character == "\t";
    const size_t width = tab ? kTab : columns_of(character);
    if (column + width > columns) next_row();
    out.rows.back() += tab ? std::string(kTab, ' ') : std::string(character);
    column += width;
  }
  return out;
}

LineEditor::LineEditor(ChatSignals& signals, int output, bool colour)
    : signals_(signals), output_(output), colour_(colour) {
  if (!setlocale(LC_CTYPE, "C.UTF-8")) setlocale(LC_CTYPE, "");
}

void LineEditor::put(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(output_, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

void LineEditor::remember(const std::string& line) {
  if (line.empty() || (!history_.empty() && history_.back() == line)) return;
  history_.push_back(line);
  if (history_.size() > kMaxHistory) history_.erase(history_.begin());
}

void LineEditor::paint(std::string_view prompt, const EditedLine& line) {
  winsize size = {};
  if (ioctl(output_, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) size = {24, 80, 0, 0};
  const TextRows text = lay_out(prompt, line.text(), line.cursor(), size.ws_col);
  // What does not fit on the screen cannot be gone back to: only the part around the cursor is shown.
  const size_t height = std::max<size_t>(size.ws_row, 2) - 1;
  const size_t first = text.cursor_row < height ? 0 : text.cursor_row - height + 1;
  const size_t last = std::min(text.rows.size(), first + height);
  std::string out = painted_row_ > 0 ? fmt::format("\033[{}A", painted_row_) : "";
  out += "\r\033[J";
  for (size_t row = first; row < last; row++) {
    if (row > first) out += "\r\n";
    std::string_view shown = text.rows[row];
    if (row == 0 && colour_) {
      out += fmt::format("\033[1m{}\033[22m", prompt);
      shown.remove_prefix(prompt.size());
    }
    out += shown;
  }
  if (last - 1 > text.cursor_row) out += fmt::format("\033[{}A", last - 1 - text.cursor_row);
  out += '\r';
  if (text.cursor_column > 0) out += fmt::format("\033[{}C", text.cursor_column);
  put(out);
  painted_row_ = text.cursor_row - first;
}

bool LineEditor::more() {
  pollfd both[2] = {{STDIN_FILENO, POLLIN, 0}, {signals_.wake_fd(), POLLIN, 0}};
  // A key of several bytes that is not whole yet is soon, or it is the Escape key alone.
  const int found = poll(both, 2, bytes_.empty() ? -1 : kSequenceMs);
  if (found < 0) return errno == EINTR;
  if (found == 0) {
    bytes_.clear();
    return true;
  }
  if (both[1].revents != 0) return true;
  char bytes[4096];
  const ssize_t count = ::read(STDIN_FILENO, bytes, sizeof bytes);
  if (count < 0) return errno == EINTR || errno == EAGAIN;
  bytes_.append(bytes, static_cast<size_t>(std::max<ssize_t>(count, 0)));
  return count > 0;
}

InputEnd LineEditor::read(std::string_view prompt, std::string& line) {
  EditedLine edited(history_);
  painted_row_ = 0;
  bool pasting = false;
  const auto finish = [&](InputEnd how) {
    edited.key("\033[F");
    paint(prompt, edited);
    put("\033[?2004l\n");
    line = edited.text();
    return how;
  };
  put("\033[?2004h");
  for (;;) {
    for (std::string_view key; !(key = first_key(bytes_)).empty();) {
      const std::string pressed(key);
      bytes_.erase(0, key.size());
      if (pressed == kPasteBegin || pressed == kPasteEnd) {
        pasting = pressed == kPasteBegin;
      } else if (pasting) {
        edited.insert(pressed == "\r" ? "\n" : terminal_text(pressed));
      } else {
        switch (edited.key(pressed)) {
          case EditedLine::Effect::enter:
            return finish(InputEnd::line);
          case EditedLine::Effect::end:
            return finish(InputEnd::end);
          case EditedLine::Effect::redraw:
            put("\033[H\033[2J");
            painted_row_ = 0;
            break;
          case EditedLine::Effect::changed:
          case EditedLine::Effect::none:
            break;
        }
      }
    }
    paint(prompt, edited);
    if (!more()) return finish(InputEnd::end);
    signals_.drain();
    if (signals_.stop()) return finish(InputEnd::interrupted);
  }
}

}  // namespace moerge
