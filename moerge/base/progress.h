#pragma once
// What a run tells the person who started it, all of it on stderr. Results go to stdout and not through here.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

namespace moerge {

/// The text with control characters (but line ends and tabs) as \\xNN: names from model files must not drive
/// a terminal.
std::string printable(std::string_view text);
/// A line on stderr. Never fails: where stderr takes nothing, the program goes on without it.
void print_error_line(std::string_view text);
/// A result on stdout, flushed. Throws io when stdout does not take it.
void print_result(std::string_view text);

enum class Verbosity { quiet, normal, verbose };

/// Lines of a run. Safe to call from any thread; a line ends a progress bar that is being drawn.
class Reporter {
 public:
  explicit Reporter(Verbosity verbosity);

  void warning(std::string_view text);  // shown even when quiet: a warning is never to be missed
  void info(std::string_view text);     // shown unless quiet
  void detail(std::string_view text);   // shown when verbose
  bool quiet() const { return verbosity_ == Verbosity::quiet; }

 private:
  friend class Progress;
  void line(std::string_view text);
  void draw(std::string_view text);  // replaces the current line of a terminal

  Verbosity verbosity_;
  bool terminal_;
  bool drawn_ = false;
  std::mutex guard_;
};

/// What a Progress counts.
enum class Unit { bytes, tokens, items };

/// Progress over a known number of bytes, tokens or items: a redrawn line with rate and time left on a
/// terminal, one line at the end elsewhere, nothing when quiet.
class Progress {
 public:
  Progress(Reporter& reporter, std::string label, int64_t total, Unit unit = Unit::bytes);
  void add(int64_t count);  // from any thread
  void finish();

 private:
  double seconds() const;

  Reporter& reporter_;
  std::string label_;
  int64_t total_;
  Unit unit_;
  std::atomic<int64_t> done_{0};
  std::atomic<int64_t> next_draw_ms_{0};
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace moerge
