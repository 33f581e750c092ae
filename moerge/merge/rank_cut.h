#pragma once
// Which values of a tensor are the largest or the smallest, exactly, without sorting or keeping them: two
// histograms over the bits of float32 find the value at the boundary, a third look finds where the equal ones
// are cut.

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace moerge {

/// A float, or its magnitude, as a number that orders like it. Not-a-number is above everything (with a sign,
/// below everything).
inline uint32_t magnitude_bits(float value) { return std::bit_cast<uint32_t>(value) & 0x7fffffffu; }
inline uint32_t ordered_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
inline float from_ordered_bits(uint32_t bits) {
  return std::bit_cast<float>(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

/// Takes `rank` elements from the small end or from the large end; of equal ones those that come first in the
/// tensor. All values pass passes() times, in the order of the elements.
class RankCut {
 public:
  enum class End { smallest, largest };
  enum class By { magnitude, value };
  /// 0 <= rank <= count. `bf16`: all values are bfloat16 numbers, whose bits one histogram tells apart.
  RankCut(End end, int64_t count, int64_t rank, By by = By::magnitude, bool bf16 = false);

  static constexpr int kPasses = 3;  // at most
  int passes() const { return bf16_ ? 2 : kPasses; }
  void look(int pass, std::span<const float> values);
  void end_pass(int pass);

  /// After all passes. `index`: of the element.
  bool takes(int64_t index, float value) const {
    const uint32_t bits = bits_of(value);
    const bool beyond = end_ == End::smallest ? bits < bits_ : bits > bits_;
    return beyond || (bits == bits_ && index < cut_);
  }

  /// Of magnitudes, the largest ones: sets every other value to 0. `first`: index of the first.
  void keep(int64_t first, std::span<float> values) const;

  /// By value, after two passes: the last one that is taken. Not when none or all are.
  float boundary() const { return from_ordered_bits(bits_); }

 private:
  uint32_t bits_of(float value) const {
    return by_ == By::magnitude ? magnitude_bits(value) : ordered_bits(value);
  }
  void count_high(std::span<const float> values);
  size_t find_bin(bool from_top);

  End end_;
  By by_;
  int64_t left_;  // of the rank, at the boundary's magnitude in the end
  bool settled_;  // none or all
  bool bf16_;
  uint32_t bits_ = 0;
  int64_t cut_ = 0, position_ = 0;
  std::vector<int64_t> histogram_;
  std::vector<int64_t>
      odd_;  // of every other value: neighbours are often in one bin, whose sum would be waited for
};

}  // namespace moerge
