// Spherical interpolation between two models by their weights: of the models or of their differences from a
// base; of a tensor as one vector, of each of its rows or of each of its columns. mergekit's own method.

#include <algorithm>
#include <cmath>

#include "moerge/merge/methods/list.h"
#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

using Type = ParameterSpec::Type;
using Scope = ParameterSpec::Scope;

constexpr ParameterSpec kParameters[] = {
    {"weight", Type::number, Scope::model_but_base, {}, "how much of the model; only their ratio counts"},
    {"nuslerp_flatten", Type::flag, Scope::tensor, 1, "a tensor counts as one vector"},
    {"nuslerp_row_wise", Type::flag, Scope::tensor, 0, "without flatten: vectors are columns, else rows"},
};
constexpr float kShortest = 1e-7f;
constexpr double kParallel = 1e-16;  // 1 - cosine^2
constexpr double kNoWeight = 1e-6;

// What is known of a pair of vectors, and what becomes of them.
struct Pair {
  double aa = 0, bb = 0, dot = 0;
  float a_length = 1, b_length = 1;
  float a_factor = 0, b_factor = 0, divisor = 1;
};

class Nuslerp final : public TensorMerge {
 public:
  explicit Nuslerp(const MergeJob& job) : dtype_(job.dtype), base_(job.base) {
    const std::vector<size_t> others = job.without_base();
    a_ = others[0], b_ = others[1];
    const double first = job.value("weight", a_), second = job.value("weight", b_), all = first + second;
    t_ = std::abs(all) < kNoWeight ? 0.5 : second / all;
    const bool flatten = job.value("nuslerp_flatten") != 0 || job.shape.size() < 2;
    if (flatten) {
      pairs_.resize(1);
    } else if (job.value("nuslerp_row_wise") != 0) {
      columns_ = static_cast<size_t>(job.columns());
      pairs_.resize(columns_);
    } else {
      row_ = static_cast<size_t>(std::max<int64_t>(1, job.shape.back()));
    }
  }

  int passes() const override { return row_ > 0 ? 0 : 2; }  // lengths, then the angle

  void look(int pass, const MergeBlock& block) override {
    subtract_base(block, a_scratch_, b_scratch_);
    look(pass, a_scratch_, b_scratch_, pairs_);
  }
  void end_pass(int pass) override { end(pass, pairs_); }

  void combine(const MergeBlock& block, std::span<float> out) const override {
    std::vector<float> a, b;
    subtract_base(block, a, b);
    if (row_ == 0) {
      blend(a, b, pairs_, out);
    } else {
      for (size_t first = 0; first < out.size(); first += row_) {
        std::vector<Pair> pair(1);
        const auto x = std::span<const float>(a).subspan(first, row_),
                   y = std::span<const float>(b).subspan(first, row_);
        for (int pass = 0; pass < 2; pass++) look(pass, x, y, pair), end(pass, pair);
        blend(x, y, pair, out.subspan(first, row_));
      }
    }
    if (!base_) return;
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = 0; e < out.size(); e++) out[e] = round(block.inputs[*base_][e] + out[e]);
    });
  }

 private:
  void subtract_base(const MergeBlock& block, std::vector<float>& a, std::vector<float>& b) const {
    a.assign(block.inputs[a_].begin(), block.inputs[a_].end());
    b.assign(block.inputs[b_].begin(), block.inputs[b_].end());
    if (!base_) return;
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = 0; e < a.size(); e++) {
        a[e] = round(a[e] - block.inputs[*base_][e]);
        b[e] = round(b[e] - block.inputs[*base_][e]);
      }
    });
  }

  // One pair for all, or one for each column.
  Pair& pair_of(std::vector<Pair>& pairs, size_t e) const { return pairs[columns_ ? e % columns_ : 0]; }

  void look(int pass, std::span<const float> a, std::span<const float> b, std::vector<Pair>& pairs) const {
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = 0; e < a.size(); e++) {
        Pair& pair = pair_of(pairs, e);
        if (pass == 0) {
          pair.aa += static_cast<double>(a[e]) * static_cast<double>(a[e]);
          pair.bb += static_cast<double>(b[e]) * static_cast<double>(b[e]);
        } else {
          pair.dot += static_cast<double>(round(round(a[e] / pair.a_length) * round(b[e] / pair.b_length)));
        }
      }
    });
  }

  void end(int pass, std::vector<Pair>& pairs) const {
    for (Pair& pair : pairs) {
      if (pass == 0) {
        pair.a_length = std::max(rounded(dtype_, std::sqrt(pair.aa)), rounded(dtype_, kShortest));
        pair.b_length = std::max(rounded(dtype_, std::sqrt(pair.bb)), rounded(dtype_, kShortest));
        continue;
      }
      const float cosine = std::clamp(rounded(dtype_, pair.dot), -1.0f, 1.0f);
      if (static_cast<double>(rounded(dtype_, 1 - rounded(dtype_, cosine * cosine))) <= kParallel) {
        pair.a_factor = static_cast<float>(1 - t_), pair.b_factor = static_cast<float>(t_);
        continue;
      }
      const float angle = rounded(dtype_, std::acos(cosine));
      const auto sine = [&](double share) {
        return rounded(dtype_, std::sin(rounded(dtype_, static_cast<float>(share) * angle)));
      };
      pair.a_factor = sine(1 - t_), pair.b_factor = sine(t_), pair.divisor = rounded(dtype_, std::sin(angle));
    }
  }

  void blend(std::span<const float> a, std::span<const float> b, const std::vector<Pair>& pairs,
             std::span<float> out) const {
    with_rounding(dtype_, [&](auto round) {
      for (size_t e = 0; e < out.size(); e++) {
        const Pair& pair = pairs[columns_ ? e % columns_ : 0];
        out[e] = round(round(round(pair.a_factor * a[e]) + round(pair.b_factor * b[e])) / pair.divisor);
      }
    });
  }

  DType dtype_;
  std::optional<size_t> base_;
  size_t a_, b_;
  double t_;
  size_t row_ = 0;      // its length, where vectors are rows; they are whole in every block
  size_t columns_ = 0;  // where vectors are columns
  std::vector<Pair> pairs_;
  std::vector<float> a_scratch_, b_scratch_;
};

}  // namespace

const MergeMethod kNuslerp = {
    .name = "nuslerp",
    .title = "NuSLERP",
    .paper = "",
    .summary = "along the arc between two models, or between their differences from a base",
    .parameters = kParameters,
    .base = BaseRole::optional,
    .min_models = 2,
    .max_models = 3,
    .missing = MissingInput::single_passes,
    .make = [](const MergeJob& job) -> std::unique_ptr<TensorMerge> {
      return std::make_unique<Nuslerp>(job);
    },
};

}  // namespace moerge
