#include "moerge/base/suggest.h"

#include <algorithm>
#include <cctype>
#include <vector>

namespace moerge {
namespace {

// Longer words are never a slip of one of ours; the bound keeps hostile keys from costing quadratic time.
constexpr size_t kLongestWord = 64;

char lower(char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); }

}  // namespace

int edit_distance(std::string_view a, std::string_view b) {
  const size_t n = b.size();
  std::vector<int> before(n + 1), previous(n + 1), current(n + 1);
  for (size_t j = 0; j <= n; j++) previous[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); i++) {
    current[0] = static_cast<int>(i);
    for (size_t j = 1; j <= n; j++) {
      const int substituted = previous[j - 1] + (lower(a[i - 1]) != lower(b[j - 1]));
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, substituted});
      if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) && lower(a[i - 2]) == lower(b[j - 1]))
        current[j] = std::min(current[j], before[j - 2] + 1);
    }
    std::swap(before, previous);
    std::swap(previous, current);
  }
  return previous[n];
}

std::string nearest(std::string_view word, std::span<const std::string_view> candidates) {
  if (word.size() > kLongestWord) return {};
  const int allowed = std::clamp(static_cast<int>(word.size()) / 3, 1, 3);
  int best = allowed + 1;
  std::string_view found;
  for (std::string_view candidate : candidates) {
    const int distance = edit_distance(word, candidate);
    if (distance < best) {
      best = distance;
      found = candidate;
    }
  }
  return std::string(found);
}

}  // namespace moerge
