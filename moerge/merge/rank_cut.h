#pragma once
// Which values of a tensor are the largest or the smallest, exactly, without sorting or keeping them: two
// histograms over the bits of float32 find the value at the boundary, and in which stretch of the tensor the
// equal ones are cut; a third look, at that stretch alone, finds where.

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
/// tensor. All values that a pass wants have to come to it, in the order of the elements.
class RankCut {
 public:
  enum class End { smallest, largest };
  enum class By { magnitude, value };
  /// 0 <= rank <= count. `bf16`: all values are bfloat16 numbers, whose bits one histogram tells apart.
  RankCut(End end, int64_t count, int64_t rank, By by = By::magnitude, bool bf16 = false);

  static constexpr int kPasses = 3;  // at most
  int passes() const { return bf16_ ? 2 : kPasses; }
  /// Whether a pass has to see one of these elements.
  bool wants(int pass, int64_t first, int64_t count) const;
  /// `first`: index of the first.
  void look(int pass, int64_t first, std::span<const float> values);
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
  // How many elements up to `end`, from the end of the stretch before, are in each bin.
  struct Stretch {
    int64_t end;
    std::vector<uint32_t> counts;
  };
  bool counts(int pass) const { return pass + 1 < passes(); }
  bool counts_last(int pass) const { return pass + 2 == passes(); }
  void count(int pass, std::span<const float> values);
  void end_stretch(int pass);
  uint32_t find_bin();
  void find_stretch(uint32_t bin);

  End end_;
  By by_;
  int64_t count_, left_;  // left_: of the rank, at the boundary's magnitude in the end
  bool settled_;          // none or all
  bool bf16_;
  uint32_t bits_ = 0;
  int64_t cut_ = 0;
  int64_t search_begin_ = 0, search_end_ = 0;  // where the cut lies
  int64_t position_ = 0;                       // up to which has been counted
  std::vector<Stretch> stretches_;             // of the last pass that counts
  std::vector<int64_t> totals_;
  // Of the stretch that is being counted. Every other value has counters of its own: neighbours are often in
  // one bin, whose sum would be waited for.
  std::vector<uint32_t> even_, odd_;
};

}  // namespace moerge
