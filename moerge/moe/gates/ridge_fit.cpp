#include "moerge/moe/gates/ridge_fit.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "moerge/moe/gates/gate_texts.h"
#include "moerge/tensor/least_squares.h"

namespace moerge {
namespace {

constexpr double kLambda = 0.01;       // of the mean diagonal
constexpr double kLambdaOfFew = 0.05;  // times hidden / tokens
constexpr double kFewTokens = 8;  // an expert, for each number of a row: fewer are not worth more than a line
constexpr double kPenalty = 1e-3;  // of the mean diagonal
constexpr int kSteps = 20;
constexpr double kSharper = 1.5;

using Rows = std::vector<double>;  // [experts, hidden]

struct Moments {
  double mean, variance;
};

// Of values that are drawn with the chances softmax(factor * values).
Moments tilted(std::span<const float> values, double factor) {
  const double largest = std::ranges::max(values);
  double total = 0, sum = 0, squares = 0;
  for (const float value : values) {
    const double chance = std::exp(factor * (value - largest)), below = value - largest;
    total += chance;
    sum += chance * below;
    squares += chance * below * below;
  }
  const double mean = sum / total;
  return {largest + mean, std::max(0.0, squares / total - mean * mean)};
}

double dot(const Rows& a, const Rows& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); i++) sum += a[i] * b[i];
  return sum;
}

class Fit {
 public:
  Fit(const RidgeSample& sample, int threads)
      : sample_(sample),
        threads_(threads),
        width_(static_cast<size_t>(sample.experts)),
        weights_(balanced_weights(sample.meant, sample.experts)),
        moment_(second_moment({sample.inputs, weights_, sample.hidden}, threads)) {
    for (int64_t i = 0; i < sample.hidden; i++)
      diagonal_ += moment_[static_cast<size_t>(i * (sample.hidden + 1))] / static_cast<double>(sample.hidden);
  }

  std::vector<float> run() {
    const double fewest = static_cast<double>(fewest_tokens()), hidden = static_cast<double>(sample_.hidden);
    if (diagonal_ == 0) return std::vector<float>(static_cast<size_t>(sample_.experts * sample_.hidden));
    Rows rows = least_squares(std::max(kLambda, kLambdaOfFew * hidden / fewest));
    if (fewest >= kFewTokens * hidden)
      refine(rows);
    else
      scale(rows, sharpening(logits(rows), weights_, kSharpness));
    return {rows.begin(), rows.end()};
  }

 private:
  int64_t fewest_tokens() const {
    int64_t fewest = std::ssize(sample_.meant);
    for (int64_t e = 0; e < sample_.experts; e++)
      fewest = std::min(fewest, static_cast<int64_t>(std::ranges::count(sample_.meant, e)));
    return fewest;
  }

  static void scale(Rows& rows, double factor) {
    for (double& value : rows) value *= factor;
  }

  // factor * A + addend * mean diagonal * I
  SymmetricSystem system(double factor, double addend) const {
    std::vector<double> matrix = moment_;
    for (double& value : matrix) value *= factor;
    for (int64_t i = 0; i < sample_.hidden; i++)
      matrix[static_cast<size_t>(i * (sample_.hidden + 1))] += addend * diagonal_;
    return SymmetricSystem(std::move(matrix));
  }

  std::vector<float> logits(const Rows& rows) const {
    const std::vector<float> matrix(rows.begin(), rows.end());
    std::vector<float> out(weights_.size() * width_);
    multiply_rows(sample_.inputs, sample_.hidden, matrix, out, threads_);
    return out;
  }

  // sum over tokens of value(token, expert) * x
  Rows sums(const std::function<float(size_t token, size_t expert)>& value) const {
    std::vector<float> factors(weights_.size() * width_);
    for (size_t token = 0; token < weights_.size(); token++)
      if (sample_.meant[token] >= 0)
        for (size_t e = 0; e < width_; e++) factors[token * width_ + e] = value(token, e);
    return weighted_sums(sample_.inputs, sample_.hidden, factors, sample_.experts, threads_);
  }

  float one_hot(size_t token, size_t expert) const {
    return sample_.meant[token] == static_cast<int64_t>(expert) ? 1.0f : 0.0f;
  }

  Rows least_squares(double lambda) const {
    const float even = 1.0f / static_cast<float>(width_);
    Rows rows = sums([&](size_t token, size_t e) { return weights_[token] * (one_hot(token, e) - even); });
    system(1, lambda).solve(rows);
    return rows;
  }

  /// softmax(logits), in place.
  void shares(std::vector<float>& logits) const {
    for (size_t first = 0; first < logits.size(); first += width_) {
      const auto row = std::span(logits).subspan(first, width_);
      const double largest = std::ranges::max(row);
      double sum = 0;
      for (const float logit : row) sum += std::exp(logit - largest);
      for (float& logit : row) logit = static_cast<float>(std::exp(logit - largest) / sum);
    }
  }

  double best_factor(const Rows& rows) const;
  void refine(Rows& rows) const;

  const RidgeSample& sample_;
  const int threads_;
  const size_t width_;                // experts
  const std::vector<float> weights_;  // of tokens
  const std::vector<double> moment_;  // A
  double diagonal_ = 0;               // its mean
};

// The factor t on the rows that minimises what refine() minimises, by Newton's method in one dimension: with
// s = W x and p = softmax(t s), the derivative of -log p_own is E_p[s] - s_own, the second Var_p[s]. Without
// the penalty, texts that can be told apart for certain would have no best factor.
double Fit::best_factor(const Rows& rows) const {
  const std::vector<float> s = logits(rows);
  const double penalty = kPenalty * diagonal_ * dot(rows, rows);
  double squares = 0;
  for (size_t token = 0; token < weights_.size(); token++)
    for (const float value : std::span(s).subspan(token * width_, width_))
      squares += double{weights_[token]} * value * value / static_cast<double>(width_);
  if (!(squares > 0)) return 1;
  double factor = 1 / std::sqrt(squares);
  for (int i = 0; i < 20; i++) {
    double first = penalty * factor, second = penalty;
    for (size_t token = 0; token < weights_.size(); token++) {
      if (sample_.meant[token] < 0) continue;
      const Moments moments = tilted(std::span(s).subspan(token * width_, width_), factor);
      first +=
          weights_[token] * (moments.mean - s[token * width_ + static_cast<size_t>(sample_.meant[token])]);
      second += weights_[token] * moments.variance;
    }
    if (!(second > 0)) break;
    factor = std::clamp(factor - first / second, 0.3 * factor, 3 * factor);
  }
  return factor;
}

// Nesterov's acceleration, begun anew whenever a step went uphill.
void Fit::refine(Rows& rows) const {
  scale(rows, best_factor(rows));
  const SymmetricSystem bound = system(0.5, kPenalty);
  Rows ahead = rows;
  int64_t since_restart = 1;
  for (int step = 0; step < kSteps; step++) {
    std::vector<float> p = logits(ahead);
    shares(p);
    Rows gradient = sums([&](size_t token, size_t e) {
      return weights_[token] * (p[token * width_ + e] - one_hot(token, e));
    });
    for (size_t i = 0; i < gradient.size(); i++) gradient[i] += kPenalty * diagonal_ * ahead[i];
    Rows change = gradient;
    bound.solve(change);
    Rows next = ahead, moved = ahead;
    for (size_t i = 0; i < next.size(); i++) next[i] -= change[i], moved[i] = next[i] - rows[i];
    if (dot(gradient, moved) > 0) since_restart = 1;
    const double momentum = static_cast<double>(since_restart - 1) / static_cast<double>(since_restart + 2);
    for (size_t i = 0; i < next.size(); i++) ahead[i] = next[i] + momentum * moved[i];
    rows = std::move(next);
    since_restart++;
  }
  scale(rows, kSharper);
}

}  // namespace

std::vector<float> fit_ridge(const RidgeSample& sample, int threads) { return Fit(sample, threads).run(); }

}  // namespace moerge
