#include "moerge/base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "moerge/base/error.h"
#include "moerge/base/file.h"

namespace moerge {
namespace {

constexpr int64_t kRedrawMs = 100;
const std::string kClearLine = "\r\033[K";

std::string human_seconds(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{}:{:02} min", whole / 60, whole % 60);
  return fmt::format("{}:{:02} h", whole / 3600, whole % 3600 / 60);
}

std::string amount(Unit unit, int64_t count) {
  if (unit == Unit::bytes) return human_bytes(count);
  return fmt::format("{} {}", count, unit == Unit::tokens ? "tokens" : "items");
}

// Items may take seconds each.
std::string rate_text(Unit unit, double rate) {
  if (unit == Unit::items) return fmt::format("{:.{}f} items/s", rate, rate < 10 ? 2 : 0);
  return amount(unit, static_cast<int64_t>(rate)) + "/s";
}

}  // namespace

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool control = (byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f;
    out += control ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
  }
  return out;
}

void print_error_line(std::string_view text) { std::fputs((printable(text) + "\n").c_str(), stderr); }

void print_result(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    fail_errno("cannot write to", "standard output");
}

Reporter::Reporter(Verbosity verbosity) : verbosity_(verbosity), terminal_(isatty(STDERR_FILENO) == 1) {}

void Reporter::warning(std::string_view text) { line(fmt::format("warning: {}", text)); }

void Reporter::info(std::string_view text) {
  if (verbosity_ != Verbosity::quiet) line(text);
}

void Reporter::detail(std::string_view text) {
  if (verbosity_ == Verbosity::verbose) line(text);
}

void Reporter::line(std::string_view text) {
  const std::lock_guard lock(guard_);
  if (drawn_) std::fputs(kClearLine.c_str(), stderr);
  print_error_line(text);
  drawn_ = false;
}

void Reporter::draw(std::string_view text) {
  const std::lock_guard lock(guard_);
  std::fputs((kClearLine + printable(text)).c_str(), stderr);
  std::fflush(stderr);
  drawn_ = true;
}

Progress::Progress(Reporter& reporter, std::string label, int64_t total, Unit unit)
    : reporter_(reporter), label_(std::move(label)), total_(total), unit_(unit) {}

double Progress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void Progress::add(int64_t count) {
  const int64_t done = done_.fetch_add(count) + count;
  if (!reporter_.terminal_ || reporter_.quiet()) return;
  const double elapsed = seconds();
  const auto now_ms = static_cast<int64_t>(elapsed * 1000);
  int64_t due = next_draw_ms_.load();
  if (now_ms < due || !next_draw_ms_.compare_exchange_strong(due, now_ms + kRedrawMs)) return;
  const double rate = static_cast<double>(done) / std::max(elapsed, 1e-3);
  const double left = static_cast<double>(total_ - done) / std::max(rate, 1e-6);
  reporter_.draw(
      fmt::format("{}: {} of {} ({:.0f} %), {}, {} left", label_, amount(unit_, done), amount(unit_, total_),
                  100.0 * static_cast<double>(done) / static_cast<double>(std::max<int64_t>(total_, 1)),
                  rate_text(unit_, rate), human_seconds(left)));
}

void Progress::finish() {
  const double elapsed = seconds();
  const double rate = static_cast<double>(done_.load()) / std::max(elapsed, 1e-3);
  reporter_.info(fmt::format("{}: {} in {:.1f} s ({})", label_, amount(unit_, done_.load()), elapsed,
                             rate_text(unit_, rate)));
}

}  // namespace moerge
