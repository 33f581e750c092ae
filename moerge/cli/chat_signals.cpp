#include "moerge/cli/chat_signals.h"

#include <fcntl.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <string_view>

#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"

namespace moerge {
namespace {

constexpr std::array<int, 5> kSignals = {SIGINT, SIGTERM, SIGHUP, SIGCONT, SIGWINCH};
constexpr std::string_view kPlainTerminal = "\033[0m\033[?2004l";  // no colour, pasted text unmarked
constexpr int kInterrupted = 130;

// What a signal handler may touch.
std::atomic<bool> stop_wanted{false}, end_wanted{false};
int wake_pipe[2] = {-1, -1};
bool has_terminal = false;
termios original, raw;

void restore_terminal() {
  if (!has_terminal) return;
  if (isatty(STDOUT_FILENO) == 1) (void)!write(STDOUT_FILENO, kPlainTerminal.data(), kPlainTerminal.size());
  tcsetattr(STDIN_FILENO, TCSADRAIN, &original);
}

extern "C" void on_chat_signal(int signal) {
  const int before = errno;
  if (signal == SIGCONT) {
    // The shell has set the terminal for itself meanwhile; in the background it is not ours to set.
    if (has_terminal && tcgetpgrp(STDIN_FILENO) == getpgrp()) tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  } else if (signal != SIGWINCH) {
    if (stop_wanted.exchange(true)) {
      restore_terminal();
      _exit(kInterrupted);
    }
    if (signal != SIGINT) end_wanted = true;
  }
  (void)!write(wake_pipe[1], "", 1);
  errno = before;
}

}  // namespace

ChatSignals::ChatSignals(bool terminal) {
  stop_wanted = end_wanted = false;
  if (pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK) != 0) fail_errno("cannot make", "a pipe");
  if (terminal && tcgetattr(STDIN_FILENO, &original) == 0) {
    raw = original;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    has_terminal = true;
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  }
  struct sigaction action = {};
  action.sa_handler = on_chat_signal;
  action.sa_flags = SA_RESTART;
  for (const int signal : kSignals) sigaction(signal, &action, nullptr);
}

ChatSignals::~ChatSignals() {
  for (const int signal : {SIGCONT, SIGWINCH}) ::signal(signal, SIG_DFL);
  install_interrupt_handler();
  restore_terminal();
  has_terminal = false;
  for (int& fd : wake_pipe) {
    close(fd);
    fd = -1;
  }
}

bool ChatSignals::stop() const { return stop_wanted; }
bool ChatSignals::ended() const { return end_wanted; }
void ChatSignals::stop_handled() {
  if (!end_wanted) stop_wanted = false;
}

int ChatSignals::wake_fd() const { return wake_pipe[0]; }
void ChatSignals::drain() {
  char bytes[64];
  while (read(wake_pipe[0], bytes, sizeof bytes) > 0) {
  }
}

}  // namespace moerge
