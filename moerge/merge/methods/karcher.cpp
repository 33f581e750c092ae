// Karcher mean of the models' directions on the sphere, times the mean of their lengths. Karcher, "Riemannian
// center of mass and mollifier smoothing", 1977; https://arxiv.org/abs/2603.04972. Whatever the iteration
// reaches is a sum of the models with factors that depend on their scalar products alone, so the tensor is
// looked through once and the iteration works on those.

#include <algorithm>
#include <cmath>

#include "moerge/merge/methods/list.h"
#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

using Type = ParameterSpec::Type;
using Scope = ParameterSpec::Scope;

constexpr ParameterSpec kParameters[] = {
    {"max_iter", Type::integer, Scope::tensor, 10, "steps at most"},
    {"tol", Type::number, Scope::tensor, 1e-5, "steps that are shorter end it"},
};

using Vector = std::vector<double>;

class Karcher final : public TensorMerge {
 public:
  explicit Karcher(const MergeJob& job)
      : dtype_(job.dtype),
        count_(job.inputs),
        steps_(static_cast<int64_t>(job.value("max_iter"))),
        tolerance_(job.value("tol")),
        products_(count_ * count_),
        factors_(count_) {}

  int passes() const override { return count_ > 1 ? 1 : 0; }

  void look(int, const MergeBlock& block) override {
    for (size_t i = 0; i < count_; i++)
      for (size_t j = i; j < count_; j++) {
        double sum = 0;
        for (size_t e = 0; e < block.size(); e++)
          sum += static_cast<double>(block.inputs[i][e]) * static_cast<double>(block.inputs[j][e]);
        products_[i * count_ + j] += sum;
      }
  }

  void end_pass(int) override {
    Vector lengths(count_);
    double length = 0;  // of the result
    std::vector<size_t> valid;
    for (size_t i = 0; i < count_; i++) {
      lengths[i] = std::sqrt(products_[i * count_ + i]);
      length += lengths[i] / static_cast<double>(count_);
      if (lengths[i] > tolerance_) valid.push_back(i);
    }
    if (valid.empty()) return;
    // Of unit vectors, the valid ones.
    const size_t n = valid.size();
    std::vector<Vector> cosines(n, Vector(n));
    for (size_t i = 0; i < n; i++)
      for (size_t j = 0; j < n; j++)
        cosines[i][j] = products_[std::min(valid[i], valid[j]) * count_ + std::max(valid[i], valid[j])] /
                        (lengths[valid[i]] * lengths[valid[j]]);
    const Vector mean = find_mean(cosines);
    for (size_t i = 0; i < n; i++) factors_[valid[i]] = length * mean[i] / lengths[valid[i]];
  }

  void combine(const MergeBlock& block, std::span<float> out) const override {
    if (count_ == 1) {
      std::ranges::copy(block.inputs[0], out.begin());
      return;
    }
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = 0; e < out.size(); e++) {
        double sum = 0;
        for (size_t i = 0; i < count_; i++) sum += factors_[i] * static_cast<double>(block.inputs[i][e]);
        out[e] = round(static_cast<float>(sum));
      }
    });
  }

 private:
  static double dot(const Vector& row, const Vector& vector) {
    double sum = 0;
    for (size_t i = 0; i < row.size(); i++) sum += row[i] * vector[i];
    return sum;
  }
  static double length_of(const std::vector<Vector>& cosines, const Vector& vector) {
    double square = 0;
    for (size_t i = 0; i < vector.size(); i++) square += vector[i] * dot(cosines[i], vector);
    return std::sqrt(std::max(square, 0.0));
  }
  static void scale(Vector& vector, double factor) {
    for (double& value : vector) value *= factor;
  }

  // Its factors on the unit vectors.
  Vector find_mean(const std::vector<Vector>& cosines) const {
    const size_t n = cosines.size();
    const double share = 1 / static_cast<double>(n);
    Vector mean(n, share);
    if (const double length = length_of(cosines, mean); length < tolerance_) {
      mean.assign(n, 0);
      mean[0] = 1;
    } else {
      scale(mean, 1 / length);
    }
    for (int64_t step = 0; step < steps_; step++) {
      Vector tangent(n);
      for (size_t i = 0; i < n; i++) {
        const double cosine = std::clamp(dot(cosines[i], mean), -1.0, 1.0), angle = std::acos(cosine);
        if (angle < tolerance_) continue;
        const double factor = share * angle / std::sin(angle);
        tangent[i] += factor;
        for (size_t j = 0; j < n; j++) tangent[j] -= factor * cosine * mean[j];
      }
      const double length = length_of(cosines, tangent);
      if (length < tolerance_) break;
      for (size_t i = 0; i < n; i++)
        mean[i] = std::cos(length) * mean[i] + std::sin(length) * tangent[i] / length;
      if (const double unit = length_of(cosines, mean); unit > tolerance_) scale(mean, 1 / unit);
    }
    return mean;
  }

  DType dtype_;
  size_t count_;
  int64_t steps_;
  double tolerance_;
  Vector products_;  // of the models, i <= j
  Vector factors_;
};

}  // namespace

const MergeMethod kKarcher = {
    .name = "karcher",
    .title = "Karcher Mean",
    .paper = "https://arxiv.org/abs/2603.04972",
    .summary = "the centre of the models on a sphere",
    .parameters = kParameters,
    .base = BaseRole::ignored,
    .min_models = 1,
    .max_models = 0,
    .missing = MissingInput::refused,
    .make = [](const MergeJob& job) -> std::unique_ptr<TensorMerge> {
      return std::make_unique<Karcher>(job);
    },
};

}  // namespace moerge
