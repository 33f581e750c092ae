#include "moerge/cli/chat_input.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>

namespace moerge {
namespace {

constexpr std::string_view kPrompt = "> ", kContinued = ". ";
constexpr std::string_view kBlock = "\"\"\"";
constexpr size_t kMaxLine = 64 << 20;

}  // namespace

MessageInput::MessageInput(ChatSignals& signals, int terminal, bool colour) : signals_(signals) {
  if (terminal >= 0) editor_ = std::make_unique<LineEditor>(signals, terminal, colour);
}

InputEnd MessageInput::plain_line(std::string& out) {
  for (size_t searched = 0;;) {
    if (const size_t end = bytes_.find('\n', searched); end != std::string::npos) {
      out = bytes_.substr(0, end);
      bytes_.erase(0, end + 1);
      if (out.ends_with('\r')) out.pop_back();
      return InputEnd::line;
    }
    searched = bytes_.size();
    if (at_end_ || bytes_.size() > kMaxLine) {
      if (bytes_.empty()) return InputEnd::end;
      out = std::move(bytes_);
      bytes_.clear();
      return InputEnd::line;
    }
    pollfd both[2] = {{STDIN_FILENO, POLLIN, 0}, {signals_.wake_fd(), POLLIN, 0}};
    if (poll(both, 2, -1) < 0 && errno != EINTR) return InputEnd::end;
    signals_.drain();
    if (signals_.stop()) return InputEnd::interrupted;
    if (both[0].revents == 0) continue;
    char bytes[4096];
    const ssize_t count = read(STDIN_FILENO, bytes, sizeof bytes);
    if (count > 0)
      bytes_.append(bytes, static_cast<size_t>(count));
    else if (count == 0 || (errno != EINTR && errno != EAGAIN))
      at_end_ = true;
  }
}

InputEnd MessageInput::line(std::string_view prompt, std::string& out) {
  if (!editor_) return plain_line(out);
  const InputEnd how = editor_->read(prompt, out);
  if (how == InputEnd::line) editor_->remember(out);
  return how;
}

InputEnd MessageInput::next(std::string& message) {
  std::string text;
  if (const InputEnd how = line(kPrompt, text); how != InputEnd::line) {
    message = text;
    return how;
  }
  single_line_ = text.find('\n') == std::string::npos;
  const bool block = text == kBlock;
  if (block) text.clear();
  for (bool first = true; block || text.ends_with('\\'); first = false) {
    if (!block) {
      text.back() = '\n';
      single_line_ = false;
    }
    std::string more;
    const InputEnd how = line(kContinued, more);
    // What a pipe has sent until its end counts; at the terminal leaving means leaving.
    if (how == InputEnd::end && !editor_) break;
    if (how != InputEnd::line) {
      message = (block ? std::string(kBlock) : "") + text + more;
      return how;
    }
    if (block && more == kBlock) break;
    text += (block && !first ? "\n" : "") + more;
  }
  if (block) single_line_ = false;
  message = std::move(text);
  return InputEnd::line;
}

}  // namespace moerge
