// A weighted mean or sum of the models. Wortsman et al., "Model soups", https://arxiv.org/abs/2203.05482

#include <numeric>

#include "moerge/merge/kernels.h"
#include "moerge/merge/methods/list.h"

namespace moerge {
namespace {

using Type = ParameterSpec::Type;
using Scope = ParameterSpec::Scope;

constexpr ParameterSpec kParameters[] = {
    {"weight", Type::number, Scope::model, {}, "how much of the model"},
    {"normalize", Type::flag, Scope::tensor, 1, "divide by the sum of the weights"},
};

// In float32 whatever the type, rounded once.
class Linear final : public TensorMerge {
 public:
  explicit Linear(const MergeJob& job) : dtype_(job.dtype) {
    for (size_t i = 0; i < job.inputs; i++) weights_.push_back(static_cast<float>(job.value("weight", i)));
    if (job.value("normalize") != 0) divisor_ = std::accumulate(weights_.begin(), weights_.end(), 0.0f);
  }

  void combine(const MergeBlock& block, std::span<float> out) const override {
    std::ranges::fill(out, 0.0f);
    for (size_t i = 0; i < weights_.size(); i++) add_scaled_values(weights_[i], block.inputs[i], out);
    divide_values(dtype_, divisor_, out);
  }

 private:
  DType dtype_;
  std::vector<float> weights_;
  float divisor_ = 1;
};

std::string check_weights_sum(const MergeJob& job) {
  if (job.value("normalize") == 0) return "";
  double sum = 0;
  for (size_t i = 0; i < job.inputs; i++) sum += job.value("weight", i);
  return sum != 0 ? "" : "its weights sum to 0, and cannot be normalised";
}

}  // namespace

const MergeMethod kLinear = {
    .name = "linear",
    .title = "Linear",
    .paper = "https://arxiv.org/abs/2203.05482",
    .summary = "weighted mean of the weights",
    .parameters = kParameters,
    .base = BaseRole::ignored,
    .min_models = 1,
    .max_models = 0,
    .missing = MissingInput::refused,
    .check = check_weights_sum,
    .make = [](const MergeJob& job) -> std::unique_ptr<TensorMerge> { return std::make_unique<Linear>(job); },
};

}  // namespace moerge
