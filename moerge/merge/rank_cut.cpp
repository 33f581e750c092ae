#include "moerge/merge/rank_cut.h"

#include <algorithm>
#include <limits>

#include "moerge/merge/kernels.h"
#include "moerge/merge/method.h"

namespace moerge {
namespace {

constexpr int kLowBits = 16;
constexpr size_t kHighBins = size_t{1} << 16, kLowBins = size_t{1} << kLowBits;

}  // namespace

RankCut::RankCut(End end, int64_t count, int64_t rank, By by, bool bf16)
    : end_(end), by_(by), left_(rank), settled_(rank <= 0 || rank >= count), bf16_(bf16) {
  if (!settled_) {
    histogram_.resize(kHighBins);
    odd_.resize(kHighBins);
    return;
  }
  const bool all = rank > 0;
  bits_ = all == (end == End::smallest) ? std::numeric_limits<uint32_t>::max() : 0;
  cut_ = all ? count : 0;
}

void RankCut::look(int pass, std::span<const float> values) {
  if (settled_) return;
  if (pass == 0) {
    count_high(values);
  } else if (pass == 1 && !bf16_) {
    const uint32_t high = bits_ >> kLowBits;
    for (const float value : values)
      if (const uint32_t bits = bits_of(value); bits >> kLowBits == high) histogram_[bits & (kLowBins - 1)]++;
  } else if (left_ > 0) {
    for (size_t i = 0; i < values.size() && left_ > 0; i++)
      if (bits_of(values[i]) == bits_ && --left_ == 0) cut_ = position_ + static_cast<int64_t>(i) + 1;
    position_ += std::ssize(values);
  }
}

void RankCut::keep(int64_t first, std::span<float> values) const {
  const int64_t before = std::clamp<int64_t>(cut_ - first, 0, std::ssize(values));
  const uint32_t above = bits_ == std::numeric_limits<uint32_t>::max() ? bits_ : bits_ + 1;
  keep_magnitudes(bits_, values.first(static_cast<size_t>(before)));
  keep_magnitudes(above, values.subspan(static_cast<size_t>(before)));
}

void RankCut::count_high(std::span<const float> values) {
  const size_t pairs = values.size() / 2;
  for (size_t i = 0; i < pairs; i++) {
    histogram_[bits_of(values[2 * i]) >> kLowBits]++;
    odd_[bits_of(values[2 * i + 1]) >> kLowBits]++;
  }
  if (values.size() % 2 != 0) histogram_[bits_of(values.back()) >> kLowBits]++;
}

// The bin in which the boundary lies; what comes before it is taken off left_.
size_t RankCut::find_bin(bool from_top) {
  const size_t bins = histogram_.size();
  for (size_t i = 0; i < bins; i++) {
    const size_t bin = from_top ? bins - 1 - i : i;
    if (left_ <= histogram_[bin]) return bin;
    left_ -= histogram_[bin];
  }
  return from_top ? 0 : bins - 1;  // fewer elements than were promised
}

void RankCut::end_pass(int pass) {
  if (settled_ || pass + 1 >= passes()) return;
  if (pass == 0) {
    for (size_t i = 0; i < kHighBins; i++) histogram_[i] += odd_[i];
    discard(odd_);
  }
  const auto bin = static_cast<uint32_t>(find_bin(end_ == End::largest));
  bits_ = pass == 0 ? bin << kLowBits : bits_ | bin;
  histogram_ = std::vector<int64_t>(pass == 0 && !bf16_ ? kLowBins : 0);
}

}  // namespace moerge
