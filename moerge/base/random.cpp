#include "moerge/base/random.h"

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

constexpr uint32_t kFactors[2] = {0xD2511F53, 0xCD9E8D57}, kKeySteps[2] = {0x9E3779B9, 0xBB67AE85};

MOERGE_DISPATCHED void philox_blocks(RandomStream::Blocks& blocks, uint32_t key0, uint32_t key1) {
  auto [c0, c1, c2, c3] = blocks;
  for (int round = 0; round < 10; round++) {
    for (size_t i = 0; i < c0.size(); i++) {
      const uint64_t p0 = uint64_t{kFactors[0]} * c0[i], p1 = uint64_t{kFactors[1]} * c2[i];
      c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ key0;
      c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ key1;
      c1[i] = static_cast<uint32_t>(p1);
      c3[i] = static_cast<uint32_t>(p0);
    }
    key0 += kKeySteps[0], key1 += kKeySteps[1];
  }
  blocks = {c0, c1, c2, c3};
}

float to_unit(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = uint64_t{kFactors[0]} * c[0];
    const uint64_t p1 = uint64_t{kFactors[1]} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
    k[0] += kKeySteps[0], k[1] += kKeySteps[1];
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

RandomStream::Blocks RandomStream::blocks(uint64_t first) const {
  Blocks out;
  for (size_t i = 0; i < out[0].size(); i++) {
    const uint64_t index = first + i;
    out[0][i] = static_cast<uint32_t>(index), out[1][i] = static_cast<uint32_t>(index >> 32);
  }
  out[2].fill(static_cast<uint32_t>(name_hash_)), out[3].fill(static_cast<uint32_t>(name_hash_ >> 32));
  philox_blocks(out, key_[0], key_[1]);
  return out;
}

float RandomStream::uniform(uint64_t index) const { return to_unit(block(index / 4)[index % 4]); }

float RandomStream::normal(uint64_t index) const {
  const std::array<uint32_t, 4> words = block(index / 4);
  const size_t pair = index % 4 / 2 * 2;
  const float radius = std::sqrt(-2.0f * std::log(1.0f - to_unit(words[pair])));
  const float angle = 2.0f * std::numbers::pi_v<float> * to_unit(words[pair + 1]);
  return radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

}  // namespace moerge
