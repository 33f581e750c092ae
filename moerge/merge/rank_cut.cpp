#include "moerge/merge/rank_cut.h"

#include <limits>

namespace moerge {
namespace {

constexpr int kLowBits = 16;
constexpr size_t kHighBins = size_t{1} << 16, kLowBins = size_t{1} << kLowBits;

}  // namespace

RankCut::RankCut(End end, int64_t count, int64_t rank, By by)
    : end_(end), by_(by), left_(rank), settled_(rank <= 0 || rank >= count) {
  if (!settled_) {
    histogram_.resize(kHighBins);
    return;
  }
  const bool all = rank > 0;
  bits_ = all == (end == End::smallest) ? std::numeric_limits<uint32_t>::max() : 0;
  cut_ = all ? count : 0;
}

void RankCut::look(int pass, std::span<const float> values) {
  if (settled_) return;
  if (pass == 0) {
    for (const float value : values) histogram_[bits_of(value) >> kLowBits]++;
  } else if (pass == 1) {
    const uint32_t high = bits_ >> kLowBits;
    for (const float value : values)
      if (const uint32_t bits = bits_of(value); bits >> kLowBits == high) histogram_[bits & (kLowBins - 1)]++;
  } else if (left_ > 0) {
    for (size_t i = 0; i < values.size() && left_ > 0; i++)
      if (bits_of(values[i]) == bits_ && --left_ == 0) cut_ = position_ + static_cast<int64_t>(i) + 1;
    position_ += std::ssize(values);
  }
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
  if (settled_ || pass > 1) return;
  const auto bin = static_cast<uint32_t>(find_bin(end_ == End::largest));
  bits_ = pass == 0 ? bin << kLowBits : bits_ | bin;
  histogram_.assign(pass == 0 ? kLowBins : 0, 0);
}

}  // namespace moerge
