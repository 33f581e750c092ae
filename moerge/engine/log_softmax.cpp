#include "moerge/engine/log_softmax.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace moerge {
namespace {

// e^x of x <= 0 in operations that compilers turn into vector instructions, which the library's function is
// not: 2^n * e^f with |f| <= ln 2 / 2, and the polynomial of the Cephes library for e^f. NaN stays NaN.
inline float exp_of(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: a float of this size has no fraction
  x = x < -87.0f ? -87.0f : x;
  const float rounded = x * 1.44269504f + kRound;
  const float n = rounded - kRound;
  const float f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * f + 1.3981999507e-3f;
  y = y * f + 8.3334519073e-3f;
  y = y * f + 4.1665795894e-2f;
  y = y * f + 1.6666665459e-1f;
  y = y * f + 5.0000001201e-1f;
  y = y * f * f + f + 1.0f;
  return y * std::bit_cast<float>((std::bit_cast<uint32_t>(rounded) << 23) + 0x3f800000u);
}

constexpr size_t kLanes = 8;

}  // namespace

LogSoftmax log_softmax(std::span<const float> logits) {
  std::array<float, kLanes> tops;
  tops.fill(-INFINITY);
  const size_t whole = logits.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes)
    for (size_t lane = 0; lane < kLanes; lane++)
      tops[lane] = logits[i + lane] > tops[lane] ? logits[i + lane] : tops[lane];
  float max = *std::ranges::max_element(tops);
  for (const float logit : logits.subspan(whole)) max = logit > max ? logit : max;
  std::array<double, kLanes> sums = {};
  for (size_t i = 0; i < whole; i += kLanes)
    for (size_t lane = 0; lane < kLanes; lane++)
      sums[lane] += static_cast<double>(exp_of(logits[i + lane] - max));
  double sum = 0;
  for (const double lane : sums) sum += lane;
  for (const float logit : logits.subspan(whole)) sum += static_cast<double>(exp_of(logit - max));
  const auto first = std::ranges::find(logits, max);
  return {.max = max, .log_sum = std::log(sum), .argmax = static_cast<size_t>(first - logits.begin())};
}

}  // namespace moerge
