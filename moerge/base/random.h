#pragma once
// Random numbers that depend on (run seed, name, index) alone: the same for any thread count and any order.
// Generator: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).

#include <array>
#include <cstdint>
#include <string_view>

namespace moerge {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// A stream of independent samples addressed by index.
class RandomStream {
 public:
  RandomStream(uint64_t seed, std::string_view name);

  /// Uniform in [0, 1), 24 bits.
  float uniform(uint64_t index) const;
  /// Standard normal (Box-Muller).
  float normal(uint64_t index) const;

  /// The words that samples 4 * index to 4 * index + 3 are made of.
  std::array<uint32_t, 4> block(uint64_t index) const;

  /// block(first) to block(first + 15), faster than one by one: word w of block first + i is [w][i].
  using Blocks = std::array<std::array<uint32_t, 16>, 4>;
  Blocks blocks(uint64_t first) const;

 private:
  std::array<uint32_t, 2> key_;
  uint64_t name_hash_;
};

}  // namespace moerge
