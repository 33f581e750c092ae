// Takes the other model's values where they matter most: the change, times how far the rows' softmax moved,
// above median + 1.5 interquartile ranges. mergekit's own method (arcee.ai). It estimates the quartiles of
// large tensors from a random million; here they are exact.

#include <algorithm>
#include <cmath>
#include <optional>

#include "moerge/merge/methods/list.h"
#include "moerge/merge/rank_cut.h"
#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

constexpr float kTiny = 1e-8f;
constexpr double kQuartiles[] = {0.25, 0.5, 0.75};

class ArceeFusion final : public TensorMerge {
 public:
  explicit ArceeFusion(const MergeJob& job) : dtype_(job.dtype), base_(*job.base), elements_(job.elements()) {
    if (job.shape.size() > 1) row_ = static_cast<size_t>(std::max<int64_t>(1, job.shape.back()));
    for (const double quartile : kQuartiles) {
      const auto rank =
          static_cast<int64_t>(static_cast<float>(quartile) * static_cast<float>(elements_ - 1));
      cuts_.emplace_back(RankCut::End::smallest, std::numeric_limits<int64_t>::max(), rank + 1,
                         RankCut::By::value);
    }
  }

  // A vector's softmax needs all of it first.
  int passes() const override { return elements_ == 0 ? 0 : 2 + (row_ == 0 ? 1 : 0); }

  void look(int pass, const MergeBlock& block) override {
    if (row_ == 0 && pass == 0) {
      vector_[0].insert(vector_[0].end(), block.inputs[base_].begin(), block.inputs[base_].end());
      vector_[1].insert(vector_[1].end(), block.inputs[1 - base_].begin(), block.inputs[1 - base_].end());
      return;
    }
    find_importance(block, importance_);
    for (RankCut& cut : cuts_) cut.look(pass - (row_ == 0 ? 1 : 0), block.first, importance_);
  }

  void end_pass(int pass) override {
    if (row_ == 0 && pass == 0) {
      divergence_ = find_divergence(vector_[1], vector_[0]);
      discard(vector_[0]), discard(vector_[1]);
      return;
    }
    const int own = pass - (row_ == 0 ? 1 : 0);
    for (RankCut& cut : cuts_) cut.end_pass(own);
    if (own < 1) return;
    discard(importance_);
    const float spread = rounded(dtype_, cuts_[2].boundary() - cuts_[0].boundary());
    threshold_ = rounded(dtype_, cuts_[1].boundary() + rounded(dtype_, 1.5f * spread));
  }

  void combine(const MergeBlock& block, std::span<float> out) const override {
    std::vector<float> importance;
    find_importance(block, importance);
    const std::span<const float> base = block.inputs[base_], model = block.inputs[1 - base_];
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = 0; e < out.size(); e++)
        out[e] = importance[e] >= threshold_ ? round(base[e] + round(model[e] - base[e])) : base[e];
    });
  }

 private:
  void find_importance(const MergeBlock& block, std::vector<float>& out) const {
    const std::span<const float> base = block.inputs[base_], model = block.inputs[1 - base_];
    out.resize(base.size());
    const size_t step = row_ == 0 ? base.size() : row_;
    with_rounding(dtype_, [&](auto round) {
      for (size_t first = 0; first < base.size(); first += step) {
        const float divergence =
            row_ == 0 ? divergence_ : find_divergence(model.subspan(first, step), base.subspan(first, step));
        for (size_t e = first; e < first + step; e++)
          out[e] = round(std::abs(round(model[e] - base[e])) * divergence);
      }
    });
  }

  // Kullback and Leibler's, of the softmax of a row.
  float find_divergence(std::span<const float> model, std::span<const float> base) const {
    const auto exponents = [](std::span<const float> row) {
      const float top = row.empty() ? 0 : *std::ranges::max_element(row);
      double sum = 0;
      for (const float value : row) sum += static_cast<double>(std::exp(value - top));
      return std::pair(top, static_cast<float>(sum));
    };
    const auto [p_top, p_sum] = exponents(model);
    const auto [q_top, q_sum] = exponents(base);
    double sum = 0;
    with_rounding(dtype_, [&, p_top = p_top, p_sum = p_sum, q_top = q_top, q_sum = q_sum](auto round) {
      for (size_t e = 0; e < model.size(); e++) {
        const float p = round(round(std::exp(model[e] - p_top) / p_sum) + kTiny);
        const float q = round(round(std::exp(base[e] - q_top) / q_sum) + kTiny);
        sum += static_cast<double>(round(p * round(std::log(round(p / q)))));
      }
    });
    return rounded(dtype_, sum);
  }

  DType dtype_;
  size_t base_;
  int64_t elements_;
  size_t row_ = 0;  // its length; 0: a vector
  std::vector<float> vector_[2];
  float divergence_ = 0;  // of a vector
  std::vector<RankCut> cuts_;
  float threshold_ = 0;
  std::vector<float> importance_;  // of look()
};

}  // namespace

const MergeMethod kArceeFusion = {
    .name = "arcee_fusion",
    .title = "Arcee Fusion",
    .paper = "https://arcee.ai",
    .summary = "the other model's values where they matter most",
    .parameters = {},
    .base = BaseRole::required,
    .min_models = 2,
    .max_models = 2,
    .missing = MissingInput::single_passes,
    .make = [](const MergeJob& job) -> std::unique_ptr<TensorMerge> {
      return std::make_unique<ArceeFusion>(job);
    },
};

}  // namespace moerge
