// Spherical interpolation between the base and one other model, a tensor counting as one vector.
// Shoemake, "Animating Rotation with Quaternion Curves", SIGGRAPH 1985.

#include <algorithm>
#include <cmath>

#include "moerge/merge/kernels.h"
#include "moerge/merge/methods/list.h"

namespace moerge {
namespace {

constexpr ParameterSpec kParameters[] = {
    {"t", ParameterSpec::Type::number, ParameterSpec::Scope::tensor, {}, "0: the base, 1: the other model"},
};
constexpr double kNearlyParallel = 0.9995, kNoLength = 1e-8;

class Slerp final : public TensorMerge {
 public:
  explicit Slerp(const MergeJob& job) : dtype_(job.dtype), t_(job.value("t")), base_(*job.base) {}

  int passes() const override { return 1; }

  void look(int, const MergeBlock& block) override {
    const std::span<const float> a = block.inputs[base_], b = block.inputs[1 - base_];
    aa_ += dot_product(a, a), bb_ += dot_product(b, b), ab_ += dot_product(a, b);
  }

  // Between vectors that are nearly parallel, or opposite, a straight line.
  void end_pass(int) override {
    const auto length = [](double square) {
      const double norm = std::sqrt(square);
      return norm > kNoLength ? norm : 1;
    };
    const double cosine = std::clamp(ab_ / (length(aa_) * length(bb_)), -1.0, 1.0);
    from_base_ = static_cast<float>(1 - t_), from_other_ = static_cast<float>(t_);
    if (std::abs(cosine) > kNearlyParallel) return;
    const double angle = std::acos(cosine);
    from_base_ = static_cast<float>(std::sin((1 - t_) * angle) / std::sin(angle));
    from_other_ = static_cast<float>(std::sin(t_ * angle) / std::sin(angle));
  }

  void combine(const MergeBlock& block, std::span<float> out) const override {
    const std::span<const float> a = block.inputs[base_], b = block.inputs[1 - base_];
    mix_values(dtype_, from_base_, a, from_other_, b, out);
  }

 private:
  DType dtype_;
  double t_;
  size_t base_;
  double aa_ = 0, bb_ = 0, ab_ = 0;
  float from_base_ = 0, from_other_ = 0;
};

}  // namespace

const MergeMethod kSlerp = {
    .name = "slerp",
    .title = "SLERP",
    .paper = "https://en.wikipedia.org/wiki/Slerp",
    .summary = "along the arc between two models",
    .parameters = kParameters,
    .base = BaseRole::required,
    .min_models = 2,
    .max_models = 2,
    .missing = MissingInput::single_passes,
    .make = [](const MergeJob& job) -> std::unique_ptr<TensorMerge> { return std::make_unique<Slerp>(job); },
};

}  // namespace moerge
