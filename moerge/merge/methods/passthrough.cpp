// The one model's tensor as it is, or times a number: what frankenmerges of layers are made of.

#include "moerge/merge/methods/list.h"
#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

constexpr ParameterSpec kParameters[] = {
    {"scale", ParameterSpec::Type::number, ParameterSpec::Scope::model, 1, "factor on the values"},
};

class Passthrough final : public TensorMerge {
 public:
  explicit Passthrough(const MergeJob& job)
      : dtype_(job.dtype), scale_(static_cast<float>(job.value("scale"))) {}

  void combine(const MergeBlock& block, std::span<float> out) const override {
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = 0; e < out.size(); e++) out[e] = round(block.inputs[0][e] * scale_);
    });
  }

 private:
  DType dtype_;
  float scale_;
};

}  // namespace

const MergeMethod kPassthrough = {
    .name = "passthrough",
    .title = "Passthrough",
    .paper = "",
    .summary = "one model's layers as they are",
    .parameters = kParameters,
    .base = BaseRole::ignored,
    .min_models = 1,
    .max_models = 1,
    .missing = MissingInput::refused,
    .make = [](const MergeJob& job) -> std::unique_ptr<TensorMerge> {
      return std::make_unique<Passthrough>(job);
    },
};

}  // namespace moerge
