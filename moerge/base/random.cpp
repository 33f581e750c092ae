#include "moerge/base/random.h"

#include <cmath>
#include <numbers>

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

float RandomStream::normal(uint64_t index) const {
  const std::array<uint32_t, 4> words = block(index / 4);
  const size_t pair = index % 4 / 2 * 2;
  const float radius = std::sqrt(-2.0f * std::log(1.0f - to_unit(words[pair])));
  const float angle = 2.0f * std::numbers::pi_v<float> * to_unit(words[pair + 1]);
  return radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

}  // namespace moerge
