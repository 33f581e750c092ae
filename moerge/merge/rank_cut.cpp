#include "moerge/merge/rank_cut.h"

#include <algorithm>
#include <limits>

#include "moerge/merge/kernels.h"
#include "moerge/merge/method.h"

namespace moerge {
namespace {

constexpr int kLowBits = 16;
constexpr size_t kBins = size_t{1} << 16;

// Elements of a stretch: a sixteenth of the tensor, but not so few that their counters weigh.
int64_t stretch_size(int64_t count) {
  return std::clamp<int64_t>(count / 16 + 1, int64_t{1} << 18, int64_t{1} << 31);
}

}  // namespace

RankCut::RankCut(End end, int64_t count, int64_t rank, By by, bool bf16)
    : end_(end), by_(by), count_(count), left_(rank), settled_(rank <= 0 || rank >= count), bf16_(bf16) {
  if (!settled_) return;
  const bool all = rank > 0;
  bits_ = all == (end == End::smallest) ? std::numeric_limits<uint32_t>::max() : 0;
  cut_ = all ? count : 0;
}

bool RankCut::wants(int pass, int64_t first, int64_t count) const {
  if (settled_) return false;
  return counts(pass) || (left_ > 0 && first < search_end_ && search_begin_ < first + count);
}

void RankCut::look(int pass, int64_t first, std::span<const float> values) {
  if (!wants(pass, first, std::ssize(values))) return;
  if (counts(pass)) return count(pass, values);
  const auto begin = static_cast<size_t>(std::max<int64_t>(0, search_begin_ - first));
  for (size_t i = begin; i < values.size() && left_ > 0; i++)
    if (bits_of(values[i]) == bits_ && --left_ == 0) cut_ = first + static_cast<int64_t>(i) + 1;
}

void RankCut::keep(int64_t first, std::span<float> values) const {
  const int64_t before = std::clamp<int64_t>(cut_ - first, 0, std::ssize(values));
  const uint32_t above = bits_ == std::numeric_limits<uint32_t>::max() ? bits_ : bits_ + 1;
  keep_magnitudes(bits_, values.first(static_cast<size_t>(before)));
  keep_magnitudes(above, values.subspan(static_cast<size_t>(before)));
}

void RankCut::count(int pass, std::span<const float> values) {
  if (even_.empty()) {
    const size_t bins = pass == 0 && by_ == By::magnitude ? kBins / 2 : kBins;
    totals_.resize(bins);
    even_.resize(bins);
    odd_.resize(pass == 0 ? bins : 0);
  }
  if (pass == 0) {
    for (size_t i = 0; i + 1 < values.size(); i += 2) {
      even_[bits_of(values[i]) >> kLowBits]++;
      odd_[bits_of(values[i + 1]) >> kLowBits]++;
    }
    if (values.size() % 2 != 0) even_[bits_of(values.back()) >> kLowBits]++;
  } else {
    const uint32_t high = bits_ >> kLowBits;
    for (const float value : values)
      if (const uint32_t bits = bits_of(value); bits >> kLowBits == high) even_[bits & (kBins - 1)]++;
  }
  const int64_t size = stretch_size(count_), before = position_ / size;
  position_ += std::ssize(values);
  if (position_ / size != before) end_stretch(pass);
}

void RankCut::end_stretch(int pass) {
  for (size_t i = 0; i < odd_.size(); i++) even_[i] += odd_[i];
  for (size_t i = 0; i < even_.size(); i++) totals_[i] += even_[i];
  if (counts_last(pass)) stretches_.push_back({position_, even_});
  std::ranges::fill(even_, 0u);
  std::ranges::fill(odd_, 0u);
}

// The bin in which the boundary lies; what comes before it is taken off left_.
uint32_t RankCut::find_bin() {
  for (size_t i = 0; i < totals_.size(); i++) {
    const size_t bin = end_ == End::largest ? totals_.size() - 1 - i : i;
    if (left_ <= totals_[bin]) return static_cast<uint32_t>(bin);
    left_ -= totals_[bin];
  }
  return end_ == End::largest ? 0 : kBins - 1;  // fewer elements than were promised
}

// Of the elements in the last bin, all equal, left_ are taken: where the last of them lies.
void RankCut::find_stretch(uint32_t bin) {
  for (const Stretch& stretch : stretches_) {
    search_begin_ = search_end_;
    search_end_ = stretch.end;
    if (left_ <= stretch.counts[bin]) return;
    left_ -= stretch.counts[bin];
  }
}

void RankCut::end_pass(int pass) {
  if (settled_ || !counts(pass)) return;
  if (!even_.empty()) end_stretch(pass);
  const uint32_t bin = find_bin();
  bits_ = pass == 0 ? bin << kLowBits : bits_ | bin;
  if (counts_last(pass)) find_stretch(bin);
  position_ = 0;
  discard(totals_), discard(even_), discard(odd_), discard(stretches_);
}

}  // namespace moerge
