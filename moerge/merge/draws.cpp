#include "moerge/merge/draws.h"

#include <algorithm>
#include <type_traits>

#include "moerge/base/dispatch.h"

namespace moerge {
namespace {

using Words = std::array<uint32_t, Draws::kGenerators>;  // one of each generator
static_assert(std::is_same_v<std::array<Words, 4>, RandomStream::Blocks>);

// Number s of generator g is that of element s * kGenerators + g.
MOERGE_DISPATCHED void draw_group(const std::array<Words, 4>& states, float* __restrict out) {
  Words s0 = states[0], s1 = states[1], s2 = states[2], s3 = states[3];
  for (size_t step = 0; step < Draws::kGroup / Draws::kGenerators; step++)
    for (size_t g = 0; g < Draws::kGenerators; g++) {
      const uint32_t sum = s0[g] + s3[g], shifted = s1[g] << 9;
      s2[g] ^= s0[g];
      s3[g] ^= s1[g];
      s1[g] ^= s2[g];
      s0[g] ^= s3[g];
      s2[g] ^= shifted;
      s3[g] = s3[g] << 11 | s3[g] >> 21;
      out[step * Draws::kGenerators + g] = static_cast<float>(static_cast<int32_t>(sum >> 8)) * 0x1p-24f;
    }
}

}  // namespace

void Draws::fill(uint64_t first, std::span<float> out) const {
  std::array<float, kGroup> drawn;
  for (size_t done = 0; done < out.size();) {
    const uint64_t group = (first + done) / kGroup;
    const RandomStream::Blocks states = states_.blocks(group * kGenerators);
    const auto begin = static_cast<size_t>((first + done) % kGroup);
    const std::span<float> part = out.subspan(done, std::min(kGroup - begin, out.size() - done));
    if (part.size() == kGroup) {
      draw_group(states, part.data());
    } else {
      draw_group(states, drawn.data());
      std::ranges::copy(std::span(drawn).subspan(begin, part.size()), part.begin());
    }
    done += part.size();
  }
}

}  // namespace moerge
