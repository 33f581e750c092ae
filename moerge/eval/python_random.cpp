#include "moerge/eval/python_random.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <unordered_set>
#include <utility>

namespace moerge {
namespace {

std::vector<uint32_t> words_of(uint64_t seed) {
  std::vector<uint32_t> words = {static_cast<uint32_t>(seed)};
  if (seed >> 32) words.push_back(static_cast<uint32_t>(seed >> 32));
  return words;
}

}  // namespace

MersenneTwister MersenneTwister::from_number(uint32_t seed) {
  MersenneTwister out;
  out.state_[0] = seed;
  for (size_t i = 1; i < kSize; i++)
    out.state_[i] = 1812433253u * (out.state_[i - 1] ^ (out.state_[i - 1] >> 30)) + static_cast<uint32_t>(i);
  return out;
}

MersenneTwister MersenneTwister::from_words(const std::vector<uint32_t>& seed) {
  MersenneTwister out = from_number(19650218u);
  std::array<uint32_t, kSize>& state = out.state_;
  size_t i = 1, j = 0;
  const auto step = [&](uint32_t factor) {
    const uint32_t before = state[i - 1];
    state[i] ^= (before ^ (before >> 30)) * factor;
  };
  const auto advance = [&] {
    if (++i < kSize) return;
    state[0] = state[kSize - 1];
    i = 1;
  };
  for (size_t k = std::max(kSize, seed.size()); k > 0; k--) {
    step(1664525u);
    state[i] += seed[j] + static_cast<uint32_t>(j);
    advance();
    if (++j == seed.size()) j = 0;
  }
  for (size_t k = kSize - 1; k > 0; k--) {
    step(1566083941u);
    state[i] -= static_cast<uint32_t>(i);
    advance();
  }
  state[0] = 0x80000000u;
  return out;
}

uint32_t MersenneTwister::next() {
  if (used_ == kSize) {
    for (size_t i = 0; i < kSize; i++) {
      const uint32_t bits = (state_[i] & 0x80000000u) | (state_[(i + 1) % kSize] & 0x7fffffffu);
      state_[i] = state_[(i + kMiddle) % kSize] ^ (bits >> 1) ^ (bits & 1 ? 0x9908b0dfu : 0);
    }
    used_ = 0;
  }
  uint32_t y = state_[used_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

PythonRandom::PythonRandom(uint64_t seed) : generator_(MersenneTwister::from_words(words_of(seed))) {}

uint64_t PythonRandom::below(uint64_t n) {
  const auto bits = static_cast<int>(std::bit_width(n));
  for (;;)
    if (const uint32_t value = generator_.next() >> (32 - bits); value < n) return value;
}

std::vector<size_t> PythonRandom::sample(size_t n, size_t k) {
  std::vector<size_t> out;
  out.reserve(k);
  // CPython takes a list of all for few, and a set of those taken for many: they use different numbers.
  size_t set_size = 21;
  if (k > 5)
    set_size +=
        size_t{1} << 2 * static_cast<size_t>(std::ceil(std::log(static_cast<double>(k * 3)) / std::log(4.0)));
  if (n <= set_size) {
    std::vector<size_t> pool(n);
    std::iota(pool.begin(), pool.end(), 0);
    for (size_t i = 0; i < k; i++) {
      const size_t j = below(n - i);
      out.push_back(pool[j]);
      pool[j] = pool[n - i - 1];
    }
    return out;
  }
  std::unordered_set<size_t> taken;
  while (out.size() < k)
    if (const size_t j = below(n); taken.insert(j).second) out.push_back(j);
  return out;
}

std::vector<size_t> numpy_permutation(uint32_t seed, size_t n) {
  MersenneTwister generator = MersenneTwister::from_number(seed);
  std::vector<size_t> out(n);
  std::iota(out.begin(), out.end(), 0);
  for (size_t i = n; i-- > 1;) {
    const uint32_t mask = static_cast<uint32_t>(std::bit_ceil(i + 1) - 1);
    size_t j = 0;
    do j = generator.next() & mask;
    while (j > i);
    std::swap(out[i], out[j]);
  }
  return out;
}

}  // namespace moerge
