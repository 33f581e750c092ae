#pragma once
// From a row of logits to ln p.

#include <cstddef>
#include <span>

namespace moerge {

struct LogSoftmax {
  float max = 0;
  double log_sum = 0;  // ln of the sum of e^(logit - max); not finite when a logit is NaN or infinite
  size_t argmax = 0;   // the first of the largest

  double of(float logit) const { return static_cast<double>(logit) - static_cast<double>(max) - log_sum; }
};

/// e^x to 2 parts in 10^7, sums in double precision. Logits may be minus infinity.
LogSoftmax log_softmax(std::span<const float> logits);

}  // namespace moerge
