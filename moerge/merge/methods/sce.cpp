// Select, calculate, erase: the positions where the models differ most, each model by the size of its
// differences, those that agree about the sign. Wan et al., "FuseChat", https://arxiv.org/abs/2408.07990

#include <algorithm>
#include <cmath>
#include <optional>

#include "moerge/merge/methods/list.h"
#include "moerge/merge/rank_cut.h"
#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

using Type = ParameterSpec::Type;
using Scope = ParameterSpec::Scope;

constexpr ParameterSpec kParameters[] = {
    {"select_topk", Type::number, Scope::tensor, 1,
     "share of the positions, of those in which models differ"},
    {"int8_mask", Type::flag, Scope::tensor, 0, "without effect here"},
};
constexpr float kSmallest = 1e-6f;

class Sce final : public TensorMerge {
 public:
  explicit Sce(const MergeJob& job)
      : dtype_(job.dtype),
        base_(*job.base),
        models_(job.without_base()),
        elements_(job.elements()),
        share_(job.value("select_topk")),
        squares_(models_.size()),
        weights_(models_.size()) {
    if (share_ <= 0) selection_.emplace(RankCut::End::largest, elements_, 0);
  }

  // Positions that differ; which of them are selected; weights.
  int passes() const override { return models_.empty() ? 0 : counts() ? 2 + RankCut::kPasses : 1; }

  bool wants(int pass, int64_t first, int64_t count) const override {
    const bool selects = counts() && pass > 0 && pass <= RankCut::kPasses;
    return !selects || selection_->wants(pass - 1, first, count);
  }

  void look(int pass, const MergeBlock& block) override {
    find_vectors(block, vectors_);
    if (counts() && pass <= RankCut::kPasses) {
      find_variance(vectors_, variance_);
      if (pass == 0)
        differing_ += std::ranges::count_if(variance_, [](float value) { return value != 0; });
      else
        selection_->look(pass - 1, block.first, variance_);
      return;
    }
    select(block.first, vectors_);
    with_rounding(dtype_, [&](auto round) {
      for (size_t i = 0; i < vectors_.size(); i++)
        for (const float value : vectors_[i]) squares_[i] += static_cast<double>(round(value * value));
    });
  }

  void end_pass(int pass) override {
    if (counts() && pass <= RankCut::kPasses) {
      if (pass == 0)
        selection_.emplace(RankCut::End::largest, elements_,
                           static_cast<int64_t>(static_cast<double>(differing_) * share_));
      else
        selection_->end_pass(pass - 1);
      return;
    }
    discard(vectors_), discard(variance_);
    double sum = 0;
    for (size_t i = 0; i < weights_.size(); i++) {
      weights_[i] = rounded(dtype_, squares_[i] / static_cast<double>(std::max<int64_t>(elements_, 1)));
      sum += static_cast<double>(weights_[i]);
    }
    const float all = rounded(dtype_, sum);
    for (float& weight : weights_)
      weight = std::abs(all) < kSmallest ? rounded(dtype_, 1 / static_cast<double>(weights_.size()))
                                         : rounded(dtype_, weight / all);
  }

  void combine(const MergeBlock& block, std::span<float> out) const override {
    std::vector<std::vector<float>> vectors;
    find_vectors(block, vectors);
    select(block.first, vectors);
    const std::span<const float> base = block.inputs[base_];
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = 0; e < out.size(); e++) {
        float sum = 0, merged = 0, weights = 0;
        for (const std::vector<float>& vector : vectors) sum += vector[e];
        const bool positive = round(sum) >= 0;
        for (size_t i = 0; i < vectors.size(); i++) {
          const float value = vectors[i][e];
          if (positive ? !(value > 0) : !(value < 0)) continue;
          merged += round(value * weights_[i]);
          weights += weights_[i];
        }
        const float divisor = std::max(round(weights), round(kSmallest));
        out[e] = models_.empty() ? base[e] : round(base[e] + round(round(merged) / divisor));
      }
    });
  }

 private:
  bool counts() const { return share_ > 0 && share_ < 1; }

  void find_vectors(const MergeBlock& block, std::vector<std::vector<float>>& vectors) const {
    vectors.resize(models_.size());
    with_rounding(dtype_, [&](auto round) {
      for (size_t i = 0; i < vectors.size(); i++) {
        vectors[i].resize(block.size());
        for (size_t e = 0; e < block.size(); e++)
          vectors[i][e] = round(block.inputs[models_[i]][e] - block.inputs[base_][e]);
      }
    });
  }

  void find_variance(const std::vector<std::vector<float>>& vectors, std::vector<float>& out) const {
    out.resize(vectors[0].size());
    const auto count = static_cast<double>(vectors.size());
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = 0; e < out.size(); e++) {
        double mean = 0, squares = 0;
        for (const std::vector<float>& vector : vectors) mean += static_cast<double>(vector[e]);
        mean /= count;
        for (const std::vector<float>& vector : vectors) {
          const double apart = static_cast<double>(vector[e]) - mean;
          squares += apart * apart;
        }
        out[e] = round(static_cast<float>(squares / count));
      }
    });
  }

  void select(int64_t first, std::vector<std::vector<float>>& vectors) const {
    if (!selection_ || vectors.empty()) return;
    std::vector<float> variance;
    find_variance(vectors, variance);
    for (size_t e = 0; e < variance.size(); e++)
      if (!selection_->takes(first + static_cast<int64_t>(e), variance[e]))
        for (std::vector<float>& vector : vectors) vector[e] = 0;
  }

  DType dtype_;
  size_t base_;
  std::vector<size_t> models_;
  int64_t elements_;
  double share_;
  int64_t differing_ = 0;
  std::optional<RankCut> selection_;
  std::vector<double> squares_;
  std::vector<float> weights_;
  std::vector<std::vector<float>> vectors_;  // of look()
  std::vector<float> variance_;
};

}  // namespace

const MergeMethod kSce = {
    .name = "sce",
    .title = "SCE",
    .paper = "https://arxiv.org/abs/2408.07990",
    .summary = "where the models differ most, each by the size of its differences",
    .parameters = kParameters,
    .base = BaseRole::required,
    .min_models = 1,
    .max_models = 0,
    .missing = MissingInput::refused,
    .make = [](const MergeJob& job) -> std::unique_ptr<TensorMerge> { return std::make_unique<Sce>(job); },
};

}  // namespace moerge
