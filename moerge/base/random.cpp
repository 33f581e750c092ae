#include "moerge/base/random.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "moerge/base/dispatch.h"

namespace moerge {
namespace {

uint64_t fnv1a(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : text) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

float to_unit(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
    k[0] += 0x9E3779B9;
    k[1] += 0xBB67AE85;
  }
  return c;
}

RandomStream::RandomStream(uint64_t seed, std::string_view name)
    : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}, name_hash_(fnv1a(name)) {}

// Four 32-bit words a block; sample `index` uses word index % 4 (uniform) or its pair of words (normal).
std::array<uint32_t, 4> RandomStream::block(uint64_t index) const {
  return philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                     static_cast<uint32_t>(name_hash_), static_cast<uint32_t>(name_hash_ >> 32)},
                    key_);
}

float RandomStream::uniform(uint64_t index) const { return to_unit(block(index / 4)[index % 4]); }

namespace {

// Blocks that are computed together, a lane each.
constexpr size_t kLanes = 16;
using Lanes = std::array<uint32_t, kLanes>;

// philox4x32() of the counters (first + lane, name), in `words` by word, then by lane.
MOERGE_DISPATCHED void philox_lanes(uint64_t first, uint64_t name, std::array<uint32_t, 2> key,
                                    std::array<Lanes, 4>& words) {
  Lanes c0, c1, c2, c3;
  for (size_t i = 0; i < kLanes; i++) {
    const uint64_t index = first + i;
    c0[i] = static_cast<uint32_t>(index), c1[i] = static_cast<uint32_t>(index >> 32);
    c2[i] = static_cast<uint32_t>(name), c3[i] = static_cast<uint32_t>(name >> 32);
  }
  for (int round = 0; round < 10; round++) {
    for (size_t i = 0; i < kLanes; i++) {
      const uint64_t p0 = uint64_t{0xD2511F53} * c0[i], p1 = uint64_t{0xCD9E8D57} * c2[i];
      c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ key[0], c1[i] = static_cast<uint32_t>(p1);
      c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ key[1], c3[i] = static_cast<uint32_t>(p0);
    }
    key[0] += 0x9E3779B9, key[1] += 0xBB67AE85;
  }
  words = {c0, c1, c2, c3};
}

}  // namespace

void RandomStream::uniforms(uint64_t first, std::span<float> out) const {
  std::array<Lanes, 4> words;
  constexpr size_t kStep = 4 * kLanes;
  for (uint64_t start = first / 4 * 4; start < first + out.size(); start += kStep) {
    philox_lanes(start / 4, name_hash_, key_, words);
    const size_t skipped = start < first ? first - start : 0;
    const size_t end = std::min<uint64_t>(kStep, first + out.size() - start);
    float* const target = out.data() + (start + skipped - first);
    for (size_t i = skipped; i < end; i++) target[i - skipped] = to_unit(words[i % 4][i / 4]);
  }
}

float RandomStream::normal(uint64_t index) const {
  const std::array<uint32_t, 4> words = block(index / 4);
  const size_t pair = index % 4 / 2 * 2;
  const float radius = std::sqrt(-2.0f * std::log(1.0f - to_unit(words[pair])));
  const float angle = 2.0f * std::numbers::pi_v<float> * to_unit(words[pair + 1]);
  return radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

}  // namespace moerge
