#pragma once
// The least-squares fit of one layer's router.

#include <cstdint>
#include <span>
#include <vector>

namespace moerge {

/// Tokens of a layer, and the expert that each is meant for.
struct RidgeSample {
  std::span<const float> inputs;   // [tokens, hidden]
  std::span<const int64_t> meant;  // [tokens]; -1: left out
  int64_t experts, hidden;
};

/// Below this many tokens an expert there is nothing to fit.
inline constexpr int64_t kFewestRidgeTokens = 16;

/// Rows W, float32 [experts, hidden]. With y the one-hot of the expert that a token is meant for and
/// w = 1 / (experts * tokens of that expert), so that each expert counts the same whatever its texts' length:
///   W minimises  sum over tokens w |W x - (y - 1/experts)|^2 + lambda m |W|^2,
///   m = mean diagonal of A = sum w x xT,  lambda = max(0.01, 0.05 hidden / fewest tokens of an expert),
/// which is W = ((A + lambda m I)^-1 sum w x (y - 1/experts)T)T: no bias, for a router has none. (The closed
/// form is that of DUME, arXiv 2603.29765.)
///
/// Least squares fits a straight line to a choice; with tokens enough (8 for each number of a row) the rows
/// are carried on from there to the maximum of the balanced log-likelihood of softmax(W x), with a penalty of
/// 0.001 m |W|^2 / 2: the best single factor by Newton's method, then 20 accelerated steps with Boehning's
/// bound of the Hessian (Annals of the Institute of Statistical Mathematics 44, 1992), 0.5 A + 0.001 m I,
/// factored once; rows times 1.5. With fewer tokens one factor puts the largest logit 4 above the mean of
/// all, on average.
///
/// Every expert needs kFewestRidgeTokens tokens. Inputs that all are zeros give rows of zeros; infinite ones
/// and NaN throw input. Sums are float64, products float32; the same bits for any number of threads.
std::vector<float> fit_ridge(const RidgeSample& sample, int threads);

}  // namespace moerge
