#pragma once
// "did you mean": the nearest known word to a misspelt one.

#include <span>
#include <string>
#include <string_view>

namespace moerge {

/// Levenshtein distance with transpositions of neighbours counted as one, on bytes, case ignored.
int edit_distance(std::string_view a, std::string_view b);

/// The candidate closest to `word`, if close enough to be a slip (a third of its letters, at least one, at
/// most three); empty otherwise.
std::string nearest(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace moerge
