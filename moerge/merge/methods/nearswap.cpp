// Moves the base towards the other model where they are near each other.
// alchemonaut/QuartetAnemoi-70B-t0.0001, its model card.

#include <algorithm>
#include <cmath>

#include "moerge/merge/methods/list.h"
#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

constexpr ParameterSpec kParameters[] = {
    {"t",
     ParameterSpec::Type::number,
     ParameterSpec::Scope::tensor,
     {},
     "how near values have to be to swap"},
};
constexpr float kSmallest = 1e-6f;

class Nearswap final : public TensorMerge {
 public:
  explicit Nearswap(const MergeJob& job)
      : dtype_(job.dtype), t_(static_cast<float>(job.value("t"))), base_(*job.base) {}

  void combine(const MergeBlock& block, std::span<float> out) const override {
    const std::span<const float> a = block.inputs[base_], b = block.inputs[1 - base_];
    with_rounding(dtype_, [&](auto round) {
      const float smallest = round(kSmallest);
      for (size_t e = 0; e < out.size(); e++) {
        const float apart = std::max(round(std::abs(round(a[e] - b[e]))), smallest);
        const float weight = std::clamp(round(t_ / apart), 0.0f, 1.0f);
        out[e] = round(round(weight * b[e]) + round(round(1 - weight) * a[e]));
      }
    });
  }

 private:
  DType dtype_;
  float t_;
  size_t base_;
};

}  // namespace

const MergeMethod kNearswap = {
    .name = "nearswap",
    .title = "NearSwap",
    .paper = "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    .summary = "the other model's values where they are near the base's",
    .parameters = kParameters,
    .base = BaseRole::required,
    .min_models = 2,
    .max_models = 2,
    .missing = MissingInput::single_base_passes,
    .make = [](const MergeJob& job) -> std::unique_ptr<TensorMerge> {
      return std::make_unique<Nearswap>(job);
    },
};

}  // namespace moerge
