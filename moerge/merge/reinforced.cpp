#include "moerge/merge/reinforced.h"

#include <algorithm>
#include <cmath>

#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

class Reinforced final : public TensorMerge {
 public:
  Reinforced(const MergeJob& job, bool amplifies)
      : dtype_(job.dtype),
        base_(*job.base),
        models_(job.without_base()),
        epsilon_(static_cast<float>(job.value("epsilon"))),
        amplifies_(amplifies),
        shared_(models_.size()),
        unique_(models_.size()),
        factors_(models_.size(), 1) {
    if (!amplifies) return;
    r_ = static_cast<float>(job.value("r")), alpha_ = static_cast<float>(job.value("alpha"));
  }

  int passes() const override { return amplifies_ ? 1 : 0; }

  void look(int, const MergeBlock& block) override {
    std::vector<float> values(models_.size());
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = 0; e < block.size(); e++) {
        const int count = find_active(block, e, values, round);
        for (size_t i = 0; i < values.size(); i++)
          if (values[i] != 0) (count > 1 ? shared_ : unique_)[i]++;
      }
    });
  }

  void end_pass(int) override {
    for (size_t i = 0; i < factors_.size(); i++) {
      const float share = static_cast<float>(shared_[i]) / std::max(static_cast<float>(unique_[i]), epsilon_);
      factors_[i] = 1 + r_ * std::clamp(share, 0.0f, alpha_);
    }
  }

  void combine(const MergeBlock& block, std::span<float> out) const override {
    std::vector<float> values(models_.size());
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = 0; e < out.size(); e++) {
        const int count = find_active(block, e, values, round);
        float sum = 0;
        for (size_t i = 0; i < values.size(); i++)
          if (count > 1)
            sum += round(values[i] / static_cast<float>(count));
          else
            sum += amplifies_ ? values[i] * factors_[i] : values[i];
        const float base = block.inputs[base_][e];
        out[e] = round(base + (amplifies_ ? sum : round(sum)));
      }
    });
  }

 private:
  // Differences from the base, zero for those that are too small; how many are not.
  template <typename Round>
  int find_active(const MergeBlock& block, size_t e, std::vector<float>& values, Round round) const {
    int count = 0;
    for (size_t i = 0; i < models_.size(); i++) {
      const float value = round(block.inputs[models_[i]][e] - block.inputs[base_][e]);
      values[i] = std::abs(value) > epsilon_ ? value : 0;
      count += values[i] != 0;
    }
    return count;
  }

  DType dtype_;
  size_t base_;
  std::vector<size_t> models_;
  float epsilon_;
  bool amplifies_;
  float r_ = 0, alpha_ = 0;
  std::vector<int64_t> shared_, unique_;  // values that a model has with others, and alone
  std::vector<float> factors_;
};

}  // namespace

std::unique_ptr<TensorMerge> make_reinforced(const MergeJob& job, bool amplifies) {
  return std::make_unique<Reinforced>(job, amplifies);
}

}  // namespace moerge
