#include "moerge/merge/task_arithmetic.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>

#include "moerge/base/error.h"
#include "moerge/merge/buffers.h"
#include "moerge/merge/draws.h"
#include "moerge/merge/kernels.h"
#include "moerge/merge/rank_cut.h"
#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

constexpr double kTinySum = 1e-7;      // of absolute values: not rescaled then
constexpr float kTinyDivisor = 1e-8f;  // not divided by

// Places in a row by rising magnitude, scaled to 0 to 1; equal ones in their order.
void rank_row(std::span<const float> row, std::vector<uint32_t>& order, std::span<float> ranks) {
  order.resize(row.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::stable_sort(order, {}, [&](uint32_t i) { return magnitude_bits(row[i]); });
  const float last = static_cast<float>(std::max<size_t>(row.size(), 2) - 1);
  for (size_t rank = 0; rank < order.size(); rank++) ranks[order[rank]] = static_cast<float>(rank) / last;
}

/// One model's difference from the base.
class Difference {
 public:
  Difference(const MergeJob& job, const TaskArithmeticKind& kind, size_t input)
      : input_(input),
        thinning_(kind.thinning),
        dtype_(job.dtype),
        elements_(job.elements()),
        row_(static_cast<size_t>(job.shape.size() < 2 ? elements_ : job.columns())),
        rescales_(job.value("rescale") != 0),
        weight_(rounded(job.dtype, job.value("weight", input))),
        density_(job.value("density", input)),
        draws_(job.seed, fmt::format("{} of {}", job.name, job.input_names[input])) {
    if (thinning_ == Thinning::none || density_ >= 1) {
      thinning_ = Thinning::none;
      rescales_ = false;
      return;
    }
    if (thinning_ == Thinning::by_rank) {
      epsilon_ = job.value("epsilon", input);
      gathers_ = job.shape.size() < 2 && density_ > 0;
    }
    if (thinning_ == Thinning::largest) {
      const auto share = static_cast<int64_t>(density_ * static_cast<double>(elements_));
      const int64_t count = density_ <= 0 ? 0 : std::min(elements_, std::max<int64_t>(1, share));
      add_cut(RankCut::End::largest, count);
    } else if (thinning_ == Thinning::without_outliers) {
      const auto share = [&](double part) {
        return static_cast<int64_t>(std::max(part, 0.0) * static_cast<double>(elements_));
      };
      const int64_t count = share(density_);
      const int64_t begin = std::max<int64_t>(0, elements_ - count - share(job.value("gamma", input)));
      add_cut(RankCut::End::smallest, begin);
      add_cut(RankCut::End::smallest, std::min(elements_, begin + count));
    }
  }

  size_t input() const { return input_; }
  float weight() const { return weight_; }
  int selecting_passes() const { return !cuts_.empty() ? cuts_.front().passes() : gathers_ ? 1 : 0; }
  bool rescales() const { return rescales_; }

  bool wants_to_select(int pass, int64_t first, int64_t count) const {
    return (gathers_ && pass == 0) ||
           std::ranges::any_of(cuts_, [&](const RankCut& cut) { return cut.wants(pass, first, count); });
  }
  void select(int pass, int64_t first, std::span<const float> values) {
    for (RankCut& cut : cuts_) cut.look(pass, first, values);
    if (gathers_ && pass == 0) gathered_.insert(gathered_.end(), values.begin(), values.end());
  }
  void end_selecting(int pass) {
    for (RankCut& cut : cuts_) cut.end_pass(pass);
    if (!gathers_ || pass > 0) return;
    std::vector<uint32_t> order;
    ranks_.resize(gathered_.size());
    rank_row(gathered_, order, ranks_);
    discard(gathered_);
  }

  void add_sums(int64_t first, std::span<float> values) {
    before_ += sum_magnitudes(values);
    thin(first, values);
    after_ += sum_magnitudes(values);
  }
  void end_sums() {
    const DType sums = works_in_f32() ? DType::f32 : dtype_;
    const float before = rounded(sums, before_), after = rounded(sums, after_);
    if (before >= kTinySum && after >= kTinySum) factor_ = rounded(sums, before / after);
  }

  /// Thins and weighs the difference.
  void prepare(int64_t first, std::span<float> values) const {
    thin(first, values);
    if (factor_) scale_values(dtype_, *factor_, values);
    scale_values(dtype_, weight_, values);
  }

 private:
  // The differences are rounded to the job's type.
  void add_cut(RankCut::End end, int64_t rank) {
    cuts_.emplace_back(end, elements_, rank, RankCut::By::magnitude, dtype_ == DType::bf16);
  }

  bool works_in_f32() const {
    return dtype_ == DType::f16 && (thinning_ == Thinning::random || thinning_ == Thinning::by_rank);
  }

  void thin(int64_t first, std::span<float> values) const {
    switch (thinning_) {
      case Thinning::none:
        return;
      case Thinning::largest:
        return cuts_[0].keep(first, values);
      case Thinning::without_outliers:
        return keep_where(values, [&](size_t e) {
          const int64_t index = first + static_cast<int64_t>(e);
          return !cuts_[0].takes(index, values[e]) && cuts_[1].takes(index, values[e]);
        });
      case Thinning::random: {
        const auto density = static_cast<float>(density_);
        return for_each_draw(first, values, [&](size_t, std::span<const float> drawn, std::span<float> part) {
          keep_below(density, drawn, part);
        });
      }
      case Thinning::by_rank:
        return thin_by_rank(first, values);
    }
  }

  void thin_by_rank(int64_t first, std::span<float> values) const {
    if (density_ <= 0) {
      std::ranges::fill(values, 0.0f);
      return;
    }
    std::vector<uint32_t> order;
    std::vector<float> own(gathers_ ? 0 : row_);
    const auto least = static_cast<float>(density_ - epsilon_), range = static_cast<float>(2 * epsilon_);
    const size_t step = gathers_ ? values.size() : std::max<size_t>(row_, 1);
    for (size_t begin = 0; begin < values.size(); begin += step) {
      const auto row = values.subspan(begin, std::min(step, values.size() - begin));
      std::span<const float> ranks = own;
      if (gathers_)
        ranks = std::span(ranks_).subspan(static_cast<size_t>(first), row.size());
      else
        rank_row(row, order, own);
      for_each_draw(first + static_cast<int64_t>(begin), row,
                    [&](size_t place, std::span<const float> drawn, std::span<float> part) {
                      keep_below(least, range, ranks.subspan(place, part.size()), drawn, part);
                    });
    }
  }

  // Calls change(place, drawn, part) for one part of the values after the other, with numbers in [0, 1) that
  // are drawn for them. A part lies in one group of draws.
  template <typename Change>
  void for_each_draw(int64_t first, std::span<float> values, const Change& change) const {
    std::array<float, Draws::kGroup> drawn;
    for (size_t begin = 0; begin < values.size();) {
      const uint64_t index = static_cast<uint64_t>(first) + begin;
      const size_t size = std::min(drawn.size() - index % drawn.size(), values.size() - begin);
      const std::span<float> some = std::span(drawn).first(size);
      draws_.fill(index, some);
      change(begin, std::span<const float>(some), values.subspan(begin, size));
      begin += size;
    }
  }

  template <typename Keep>
  static void keep_where(std::span<float> values, const Keep& keep) {
    for (size_t e = 0; e < values.size(); e++) values[e] = keep(e) ? values[e] : 0.0f;
  }

  size_t input_;
  Thinning thinning_;
  DType dtype_;
  int64_t elements_;
  size_t row_;  // elements
  bool rescales_;
  float weight_;
  double density_, epsilon_ = 0;
  Draws draws_;
  std::vector<RankCut> cuts_;
  bool gathers_ = false;  // a tensor of one dimension counts as one row, and comes in pieces
  std::vector<float> gathered_, ranks_;
  double before_ = 0, after_ = 0;  // sums of absolute values
  std::optional<float> factor_;
};

class TaskArithmetic final : public TensorMerge {
 public:
  TaskArithmetic(const MergeJob& job, const TaskArithmeticKind& kind)
      : dtype_(job.dtype),
        consensus_(kind.consensus),
        normalize_(job.value("normalize") != 0),
        lambda_(static_cast<float>(job.value("lambda"))),
        base_(*job.base) {
    for (const size_t input : job.without_base()) {
      const Difference& made = differences_.emplace_back(job, kind, input);
      selecting_ = std::max(selecting_, made.selecting_passes());
      rescales_ = rescales_ || made.rescales();
      weights_.push_back(made.weight());
    }
    const float all = rounded(dtype_, std::accumulate(weights_.begin(), weights_.end(), 0.0f));
    divisor_ = std::abs(all) < kTinyDivisor ? 1.0f : all;
  }

  int passes() const override { return selecting_ + (rescales_ ? 1 : 0); }

  bool wants(int pass, int64_t first, int64_t count) const override {
    return std::ranges::any_of(differences_,
                               [&](const Difference& one) { return wants(one, pass, first, count); });
  }

  void look(int pass, const MergeBlock& block) override {
    Buffers buffers;
    for (Difference& difference : differences_) {
      if (!wants(difference, pass, block.first, static_cast<int64_t>(block.size()))) continue;
      const std::span<float> values = subtract(block, difference, 0, buffers);
      if (pass < selecting_)
        difference.select(pass, block.first, values);
      else
        difference.add_sums(block.first, values);
    }
  }

  void end_pass(int pass) override {
    for (Difference& difference : differences_)
      if (pass < selecting_)
        difference.end_selecting(pass);
      else if (difference.rescales())
        difference.end_sums();
  }

  void combine(const MergeBlock& block, std::span<float> out) const override {
    Buffers buffers;
    std::vector<std::span<const float>> deltas;
    for (const Difference& difference : differences_) {
      const std::span<float> values = subtract(block, difference, deltas.size(), buffers);
      difference.prepare(block.first, values);
      deltas.push_back(values);
    }
    const std::span<const float> base = block.inputs[base_];
    if (consensus_)
      return add_agreeing(
          dtype_, {.differences = deltas, .weights = weights_, .normalize = normalize_, .lambda = lambda_},
          base, out);
    std::ranges::fill(out, 0.0f);
    for (const std::span<const float> delta : deltas) add_values(DType::f32, delta, out);
    scale_values(dtype_, 1, out);
    if (normalize_) divide_values(dtype_, divisor_, out);
    if (lambda_ != 1) scale_values(dtype_, lambda_, out);
    add_values(dtype_, base, out);
  }

 private:
  bool wants(const Difference& difference, int pass, int64_t first, int64_t count) const {
    return pass < selecting_ ? difference.wants_to_select(pass, first, count) : difference.rescales();
  }

  std::span<float> subtract(const MergeBlock& block, const Difference& difference, size_t number,
                            Buffers& buffers) const {
    const std::span<const float> base = block.inputs[base_], model = block.inputs[difference.input()];
    const std::span<float> out = buffers.floats(number, base.size());
    subtract_values(dtype_, model, base, out);
    return out;
  }

  DType dtype_;
  bool consensus_, normalize_;
  float lambda_;
  size_t base_;
  std::vector<Difference> differences_;
  std::vector<float> weights_;  // theirs
  float divisor_;               // where all count
  int selecting_ = 0;           // passes in which it is found out what stays
  bool rescales_ = false;
};

}  // namespace

std::string check_rank_probabilities(const MergeJob& job) {
  for (const size_t i : job.without_base()) {
    const double density = job.value("density", i), epsilon = job.value("epsilon", i);
    if (density <= 0 || density >= 1 || (density - epsilon > 0 && density + epsilon < 1)) continue;
    return fmt::format(
        "density {:.6g} and epsilon {:.6g} of \"{}\" make probabilities from {:.6g} to {:.6g}, "
        "they have to lie between 0 and 1",
        density, epsilon, job.input_names[i], density - epsilon, density + epsilon);
  }
  return "";
}

std::unique_ptr<TensorMerge> make_task_arithmetic(const MergeJob& job, const TaskArithmeticKind& kind) {
  return std::make_unique<TaskArithmetic>(job, kind);
}

}  // namespace moerge
