// Between the base and the models' mean, the nearer to the mean the more the models agree about the way
// there. Jang et al., "Model Stock", https://arxiv.org/abs/2403.19522

#include <algorithm>
#include <cmath>

#include "moerge/merge/methods/list.h"
#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

constexpr ParameterSpec kParameters[] = {
    {"filter_wise", ParameterSpec::Type::flag, ParameterSpec::Scope::tensor, 0,
     "each row of a matrix on its own"},
};
constexpr float kSmallest = 1e-6f;

class ModelStock final : public TensorMerge {
 public:
  explicit ModelStock(const MergeJob& job)
      : dtype_(job.dtype), base_(*job.base), models_(job.without_base()) {
    if (job.value("filter_wise") != 0 && job.shape.size() > 1) row_ = static_cast<size_t>(job.shape.back());
  }

  int passes() const override { return row_ > 0 ? 0 : 1; }
  void look(int, const MergeBlock& block) override { add(block, 0, block.size(), products_); }
  void end_pass(int) override { t_ = find_t(products_); }

  void combine(const MergeBlock& block, std::span<float> out) const override {
    if (row_ == 0) return blend(block, 0, out.size(), t_, out);
    for (size_t first = 0; first < out.size(); first += row_) {
      std::vector<double> products;
      add(block, first, row_, products);
      blend(block, first, row_, find_t(products), out);
    }
  }

 private:
  // Scalar products of the differences from the base, as [model, model].
  void add(const MergeBlock& block, size_t first, size_t size, std::vector<double>& products) const {
    const size_t n = models_.size();
    products.resize(n * n);
    std::vector<float> offsets(n);
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = first; e < first + size; e++) {
        for (size_t i = 0; i < n; i++)
          offsets[i] = round(block.inputs[models_[i]][e] - block.inputs[base_][e]);
        for (size_t i = 0; i < n; i++) {
          products[i * n + i] += static_cast<double>(offsets[i]) * static_cast<double>(offsets[i]);
          for (size_t j = i + 1; j < n; j++)
            products[i * n + j] += static_cast<double>(round(offsets[i] * offsets[j]));
        }
      }
    });
  }

  float find_t(const std::vector<double>& products) const {
    const size_t n = models_.size();
    const auto length = [&](size_t i) { return rounded(dtype_, std::sqrt(products[i * n + i])); };
    double sum = 0;
    for (size_t i = 0; i < n; i++)
      for (size_t j = i + 1; j < n; j++) {
        const float norms = std::max(rounded(dtype_, length(i) * length(j)), rounded(dtype_, kSmallest));
        const float cosine = rounded(dtype_, rounded(dtype_, products[i * n + j]) / norms);
        sum += static_cast<double>(std::clamp(cosine, -1.0f, 1.0f));
      }
    const float cosine = rounded(dtype_, sum / static_cast<double>(n * (n - 1) / 2));
    const auto count = static_cast<float>(n);
    const float divisor = rounded(dtype_, 1 + rounded(dtype_, (count - 1) * cosine));
    if (std::abs(divisor) < kSmallest) return 0;
    return rounded(dtype_, rounded(dtype_, count * cosine) / divisor);
  }

  void blend(const MergeBlock& block, size_t first, size_t size, float t, std::span<float> out) const {
    const auto count = static_cast<float>(models_.size());
    const float rest = rounded(dtype_, 1 - t);
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = first; e < first + size; e++) {
        float mean = 0;
        for (const size_t model : models_) mean = round(mean + block.inputs[model][e]);
        mean = round(mean / count);
        out[e] = round(round(t * mean) + round(rest * block.inputs[base_][e]));
      }
    });
  }

  DType dtype_;
  size_t base_;
  std::vector<size_t> models_;
  size_t row_ = 0;  // its length, with filter_wise
  std::vector<double> products_;
  float t_ = 0;
};

}  // namespace

const MergeMethod kModelStock = {
    .name = "model_stock",
    .title = "Model Stock",
    .paper = "https://arxiv.org/abs/2403.19522",
    .summary = "towards the models' mean as far as they agree",
    .parameters = kParameters,
    .base = BaseRole::required,
    .min_models = 3,
    .max_models = 0,
    .missing = MissingInput::base_or_none,
    .make = [](const MergeJob& job) -> std::unique_ptr<TensorMerge> {
      return std::make_unique<ModelStock>(job);
    },
};

}  // namespace moerge
