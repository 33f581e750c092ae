#pragma once
// The random choices of Python programs, number for number: CPython's random.Random and numpy's RandomState.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace moerge {

/// The generator under both: MT19937 (Matsumoto and Nishimura, "Mersenne Twister", ACM TOMACS 1998).
class MersenneTwister {
 public:
  static MersenneTwister from_number(uint32_t seed);                     // init_genrand
  static MersenneTwister from_words(const std::vector<uint32_t>& seed);  // init_by_array

  uint32_t next();

 private:
  static constexpr size_t kSize = 624, kMiddle = 397;
  std::array<uint32_t, kSize> state_ = {};
  size_t used_ = kSize;
};

/// random.Random(seed) of CPython 3.
class PythonRandom {
 public:
  explicit PythonRandom(uint64_t seed);

  /// _randbelow: uniform in [0, n), n at least 1 and below 2^32.
  uint64_t below(uint64_t n);
  /// sample(range(n), k): where the k picks are, in their order; k at most n.
  std::vector<size_t> sample(size_t n, size_t k);

 private:
  MersenneTwister generator_;
};

/// numpy.random.RandomState(seed).permutation(n).
std::vector<size_t> numpy_permutation(uint32_t seed, size_t n);

}  // namespace moerge
