#pragma once
// Regular expressions of task files, run by Rust's regex crate (https://github.com/rust-lang/regex): in
// linear time, whoever wrote pattern and text. \w, \d and \s know Unicode, as in Python.

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moerge {

class Regex {
 public:
  /// Throws input, with the place in the pattern, for what is none (look-around and back references are not).
  Regex(std::string_view pattern, const std::string& where);

  /// By group; [0] is all of the match. Nothing: the group took no part.
  using Match = std::vector<std::optional<std::string>>;
  /// All that do not overlap, from the left; at most `most`.
  std::vector<Match> find_all(std::string_view text, size_t most = 100'000) const;
  /// The text with each match replaced by exactly `by`.
  std::string replace_all(std::string_view text, std::string_view by) const;

 private:
  struct Free {
    void operator()(void* regex) const;
  };
  std::unique_ptr<void, Free> handle_;
};

}  // namespace moerge
