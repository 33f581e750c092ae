#pragma once
// Random numbers for the elements of a tensor, cheap ones: a merge draws billions.

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "moerge/base/random.h"

namespace moerge {

/// A stream of independent samples addressed by index, that depend on (seed, name, index) alone. Elements
/// come in groups of 1,024; each group has 16 generators xoshiro128+ (Blackman and Vigna, "Scrambled linear
/// pseudorandom number generators", https://arxiv.org/abs/1805.01407), whose states are blocks of Philox.
class Draws {
 public:
  static constexpr size_t kGenerators = 16, kGroup = 1024;

  Draws(uint64_t seed, std::string_view name) : states_(seed, name) {}

  /// Uniform in [0, 1), 24 bits, of the elements from `first` on.
  void fill(uint64_t first, std::span<float> out) const;

 private:
  RandomStream states_;
};

}  // namespace moerge
