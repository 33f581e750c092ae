#pragma once
// Signals and terminal settings of a talk: ctrl-C stops an answer, the second one ends the program, and
// whatever ends it leaves the terminal as it was.

namespace moerge {

/// While it lives, SIGINT, SIGTERM, SIGHUP, SIGCONT and SIGWINCH come here. One at a time in a process.
class ChatSignals {
 public:
  /// `terminal`: standard input is one; it gives every key at once and does not show it.
  explicit ChatSignals(bool terminal);
  ChatSignals(const ChatSignals&) = delete;
  ChatSignals& operator=(const ChatSignals&) = delete;
  ~ChatSignals();

  /// ctrl-C from now on stops what is running; once more before stop_handled(), and the program ends at once.
  bool stop() const;   // ctrl-C, or the end
  bool ended() const;  // SIGTERM or SIGHUP
  void stop_handled();

  /// Readable after a signal: for poll() beside standard input, wherever the signal was delivered.
  int wake_fd() const;
  void drain();
};

}  // namespace moerge
