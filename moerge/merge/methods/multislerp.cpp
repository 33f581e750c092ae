// Barycentre of several models on a sphere: their weighted mean direction, one step in its tangent space.
// mergekit's own method.

#include <cmath>

#include "moerge/base/error.h"
#include "moerge/merge/methods/list.h"
#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

using Type = ParameterSpec::Type;
using Scope = ParameterSpec::Scope;

constexpr ParameterSpec kParameters[] = {
    {"weight", Type::number, Scope::model_but_base, {}, "how much of the model"},
    {"normalize_weights", Type::flag, Scope::tensor, 1, "divide the weights by their sum"},
    {"eps", Type::number, Scope::tensor, 1e-8, "shorter vectors have no direction"},
};

class Multislerp final : public TensorMerge {
 public:
  explicit Multislerp(const MergeJob& job)
      : name_(job.name),
        dtype_(job.dtype),
        base_(job.base),
        models_(job.without_base()),
        eps_(static_cast<float>(job.value("eps"))) {
    float sum = 0;
    for (const size_t input : models_) weights_.push_back(rounded(dtype_, job.value("weight", input)));
    for (const float weight : weights_) sum += weight;
    if (job.value("normalize_weights") != 0)
      for (float& weight : weights_) weight = rounded(dtype_, weight / rounded(dtype_, sum));
    squares_.resize(models_.size());
    lengths_.resize(models_.size());
    dots_.resize(models_.size());
  }

  // lengths; the length of the mean direction; cosines to it; the length of the step
  int passes() const override { return models_.size() == 1 ? 0 : 4; }

  void look(int pass, const MergeBlock& block) override {
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = 0; e < block.size(); e++) {
        if (pass == 0) {
          for (size_t i = 0; i < models_.size(); i++) squares_[i] += square(value(block, i, e, round));
          continue;
        }
        const float mean = mean_at(block, e, round);
        if (pass == 1) {
          mean_square_ += square(mean);
          continue;
        }
        const float direction = round(mean / mean_length_);
        if (pass == 2) {
          for (size_t i = 0; i < models_.size(); i++)
            dots_[i] += static_cast<double>(round(unit(block, i, e, round) * direction));
        } else {
          step_square_ += square(step_at(block, e, direction, round));
        }
      }
    });
  }

  void end_pass(int pass) override {
    if (pass == 0) {
      for (size_t i = 0; i < models_.size(); i++) lengths_[i] = rounded(dtype_, std::sqrt(squares_[i]));
    } else if (pass == 1) {
      mean_length_ = rounded(dtype_, std::sqrt(mean_square_));
      straight_ = mean_length_ < eps_;
      if (straight_ && models_.size() != 2)
        fail(ErrorKind::input,
             "{}: multislerp: the models' weighted directions cancel out, so there is no mean direction; "
             "other weights, or another method",
             name_);
    } else if (pass == 2) {
      for (double& dot : dots_) dot = static_cast<double>(rounded(dtype_, dot));
    } else {
      const float length = rounded(dtype_, rounded(dtype_, std::sqrt(step_square_)) + eps_);
      cosine_ = rounded(dtype_, std::cos(length));
      sine_ = rounded(dtype_, rounded(dtype_, std::sin(length)) / length);
      double sum = 0;
      for (size_t i = 0; i < models_.size(); i++)
        sum += static_cast<double>(rounded(dtype_, lengths_[i] * weights_[i]));
      length_ = rounded(dtype_, sum);
    }
  }

  void combine(const MergeBlock& block, std::span<float> out) const override {
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = 0; e < out.size(); e++) {
        if (models_.size() == 1) {
          out[e] = block.inputs[models_[0]][e];
          continue;
        }
        if (straight_) {
          out[e] = round(round(value(block, 0, e, round) * weights_[0]) +
                         round(value(block, 1, e, round) * weights_[1]));
        } else {
          const float direction = round(mean_at(block, e, round) / mean_length_);
          const float step = step_at(block, e, direction, round);
          out[e] = round(round(round(direction * cosine_) + round(step * sine_)) * length_);
        }
        if (base_) out[e] = round(out[e] + block.inputs[*base_][e]);
      }
    });
  }

 private:
  static double square(float value) { return static_cast<double>(value) * static_cast<double>(value); }

  template <typename Round>
  float value(const MergeBlock& block, size_t i, size_t e, Round round) const {
    const float own = block.inputs[models_[i]][e];
    return base_ ? round(own - block.inputs[*base_][e]) : own;
  }
  template <typename Round>
  float unit(const MergeBlock& block, size_t i, size_t e, Round round) const {
    return round(value(block, i, e, round) / round(lengths_[i] + eps_));
  }
  template <typename Round>
  float mean_at(const MergeBlock& block, size_t e, Round round) const {
    float sum = 0;
    for (size_t i = 0; i < models_.size(); i++) sum += round(unit(block, i, e, round) * weights_[i]);
    return round(sum);
  }
  template <typename Round>
  float step_at(const MergeBlock& block, size_t e, float direction, Round round) const {
    float sum = 0;
    for (size_t i = 0; i < models_.size(); i++) {
      const float tangent = round(unit(block, i, e, round) - round(static_cast<float>(dots_[i]) * direction));
      sum += round(tangent * weights_[i]);
    }
    return round(sum);
  }

  std::string name_;
  DType dtype_;
  std::optional<size_t> base_;
  std::vector<size_t> models_;
  float eps_;
  std::vector<float> weights_, lengths_;
  std::vector<double> squares_, dots_;
  double mean_square_ = 0, step_square_ = 0;
  float mean_length_ = 1, cosine_ = 0, sine_ = 0, length_ = 0;
  bool straight_ = false;
};

}  // namespace

const MergeMethod kMultislerp = {
    .name = "multislerp",
    .title = "Multi-SLERP",
    .paper = "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    .summary = "the mean of several models on a sphere",
    .parameters = kParameters,
    .base = BaseRole::optional,
    .min_models = 1,
    .max_models = 0,
    .missing = MissingInput::refused,
    .make = [](const MergeJob& job) -> std::unique_ptr<TensorMerge> {
      return std::make_unique<Multislerp>(job);
    },
};

}  // namespace moerge
