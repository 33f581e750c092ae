#include "moerge/moe/gates/ridge_fit.h"

#include <gtest/gtest.h>

#include <cmath>

#include "moerge/base/error.h"
#include "moerge/base/random.h"

namespace moerge {
namespace {

// Tokens of made-up classes, and what a fit makes of them.
struct Tokens {
  int64_t experts, hidden;
  std::vector<float> inputs = {};
  std::vector<int64_t> meant = {};

  void add(int64_t expert, std::span<const float> x) {
    inputs.insert(inputs.end(), x.begin(), x.end());
    meant.push_back(expert);
  }
  RidgeSample sample() const { return {inputs, meant, experts, hidden}; }
  std::vector<float> fit(int threads = 1) const { return fit_ridge(sample(), threads); }
};

constexpr int64_t kHidden = 12;

// Deviation of a class in one dimension.
double deviation(int64_t i) { return 0.5 + 0.1 * static_cast<double>(i); }

// Where class 0 lies; class 1 is at the opposite.
double centre(int64_t i) { return 0.4 * std::sin(1.0 + static_cast<double>(i)); }

// Draws `count` tokens of class 0 or 1 around their centres, `apart` times as far from each other.
void draw(Tokens& tokens, int64_t expert, int64_t count, double apart = 1) {
  const RandomStream random(7, expert == 0 ? "first" : "second");
  std::vector<float> x(static_cast<size_t>(tokens.hidden));
  for (int64_t token = 0; token < count; token++) {
    for (int64_t i = 0; i < tokens.hidden; i++)
      x[static_cast<size_t>(i)] = static_cast<float>(
          (expert == 0 ? 1 : -1) * apart * centre(i) +
          deviation(i) * double{random.normal(static_cast<uint64_t>(token * tokens.hidden + i))});
    tokens.add(expert, x);
  }
}

Tokens two_classes(int64_t first, int64_t second, double apart = 1) {
  Tokens tokens = {2, kHidden};
  draw(tokens, 0, first, apart);
  draw(tokens, 1, second, apart);
  return tokens;
}

// The first row minus the second: what decides between two experts.
std::vector<double> difference(std::span<const float> rows) {
  const size_t hidden = rows.size() / 2;
  std::vector<double> out;
  for (size_t i = 0; i < hidden; i++) out.push_back(double{rows[i]} - rows[hidden + i]);
  return out;
}

double length(std::span<const double> v) {
  double squares = 0;
  for (const double x : v) squares += x * x;
  return std::sqrt(squares);
}

double cosine(std::span<const double> a, std::span<const double> b) {
  double dot = 0;
  for (size_t i = 0; i < a.size(); i++) dot += a[i] * b[i];
  return dot / length(a) / length(b);
}

void expect_finite(std::span<const float> rows) {
  for (const float value : rows) EXPECT_TRUE(std::isfinite(value));
}

float logit(std::span<const float> rows, size_t expert, std::span<const float> x) {
  float sum = 0;
  for (size_t i = 0; i < x.size(); i++) sum += rows[expert * x.size() + i] * x[i];
  return sum;
}

// For Gaussian classes at +-c with one covariance S, log p(0|x) - log p(1|x) is 2 cT S^-1 x.
TEST(RidgeFit, FindsTheBestRuleAndItsScale) {
  std::vector<double> best;
  for (int64_t i = 0; i < kHidden; i++) best.push_back(2 * centre(i) / deviation(i) / deviation(i));
  const std::vector<double> found = difference(two_classes(8000, 8000).fit());
  EXPECT_GT(cosine(found, best), 0.995);
  EXPECT_NEAR(length(found) / length(best), 1.5, 0.08);
}

TEST(RidgeFit, FewTokensByHand) {
  // 16 tokens of three numbers a class are fewer than 8 for each: the least-squares rows, and one factor.
  Tokens tokens = {2, 3};
  for (int i = 0; i < 16; i++) {
    tokens.add(0, std::vector<float>{2, 0, 0});
    tokens.add(1, std::vector<float>{0, 3, 0});
  }
  const double mean = (2 + 4.5) / 3, ridge = 0.01 * mean;  // the diagonal of A is 2, 4.5, 0
  const double a = 0.5 / (2 + ridge), b = -0.75 / (4.5 + ridge);
  const double factor = 4 / (0.5 * 2 * a + 0.5 * 3 * -b);
  const std::vector<float> rows = tokens.fit();
  const std::vector<double> expected = {a, b, 0, -a, -b, 0};
  for (size_t i = 0; i < rows.size(); i++) EXPECT_NEAR(rows[i], factor * expected[i], 1e-5) << i;
}

// Less than 8 tokens for each number of a row: lambda grows.
TEST(RidgeFit, FewTokensAreTrustedLess) {
  Tokens tokens = {2, 4};
  for (int i = 0; i < 2; i++) {
    tokens.add(0, std::vector<float>{1, 0, 0, 0});
    tokens.add(0, std::vector<float>{0, 3, 0, 0});
    tokens.add(1, std::vector<float>{0, 0, 1, 0});
    tokens.add(1, std::vector<float>{0, 0, 0, 3});
  }
  const double mean = (2 * 0.25 + 2 * 2.25) / 4, ridge = 0.05 * mean;  // 0.05 * 4 / 4
  const std::vector<float> rows = tokens.fit();
  const double expected = (0.25 * 1 / (0.25 + ridge)) / (0.25 * 3 / (2.25 + ridge));
  EXPECT_NEAR(rows[0] / rows[1], expected, 1e-5);
}

TEST(RidgeFit, LengthOfTextsDoesNotCount) {
  for (const int64_t count : {int64_t{60}, int64_t{200}}) {  // few tokens, and enough
    const Tokens even = two_classes(count, count);
    Tokens uneven = even;
    for (int time = 1; time < 100; time++)
      for (int64_t token = count; token < 2 * count; token++)
        uneven.add(1, std::span(even.inputs).subspan(static_cast<size_t>(token * kHidden), kHidden));
    const std::vector<double> a = difference(even.fit()), b = difference(uneven.fit());
    EXPECT_GT(cosine(a, b), 0.99999) << count;
    EXPECT_NEAR(length(b) / length(a), 1, 1e-3) << count;
  }
}

TEST(RidgeFit, AHundredTimesTheText) {
  const std::vector<double> even = difference(two_classes(400, 400).fit()),
                            uneven = difference(two_classes(400, 40000).fit());
  EXPECT_GT(cosine(even, uneven), 0.97);
  EXPECT_NEAR(length(uneven) / length(even), 1, 0.15);
}

TEST(RidgeFit, LeftOutTokensDoNotCount) {
  const Tokens tokens = two_classes(300, 300);
  Tokens more = tokens;
  for (int i = 0; i < 50; i++) more.add(-1, std::vector<float>(kHidden, 100.0f));
  const std::vector<double> a = difference(tokens.fit()), b = difference(more.fit());
  EXPECT_GT(cosine(a, b), 0.999999);
  EXPECT_NEAR(length(a) / length(b), 1, 1e-4);
}

TEST(RidgeFit, SameBitsForAnyNumberOfThreads) {
  for (const int64_t count : {int64_t{700}, int64_t{2500}}) {
    Tokens tokens = {3, 300};
    const RandomStream random(1, "x");
    for (int64_t token = 0; token < 3 * count; token++) {
      std::vector<float> x;
      for (int64_t i = 0; i < tokens.hidden; i++)
        x.push_back(random.normal(static_cast<uint64_t>(token * tokens.hidden + i)) +
                    (i % 3 == token % 3 ? 0.3f : 0.0f));
      tokens.add(token % 3, x);
    }
    EXPECT_EQ(tokens.fit(1), tokens.fit(3)) << count;
  }
}

// Texts without anything in common can be told apart for certain, however the scale grows.
TEST(RidgeFit, SeparableClassesStayFinite) {
  for (const double apart : {3.0, 10.0, 1000.0}) {
    const Tokens tokens = two_classes(500, 500, apart);
    const std::vector<float> rows = tokens.fit();
    expect_finite(rows);
    double largest = 0;
    for (size_t token = 0; token < tokens.meant.size(); token++) {
      const auto x = std::span(tokens.inputs).subspan(token * kHidden, kHidden);
      const double right = logit(rows, static_cast<size_t>(tokens.meant[token]), x),
                   wrong = logit(rows, 1 - static_cast<size_t>(tokens.meant[token]), x);
      EXPECT_GT(right, wrong) << apart << " " << token;
      largest = std::max(largest, right - wrong);
    }
    EXPECT_LT(largest, 60) << apart;
  }
}

TEST(RidgeFit, SameInputsOfTwoExperts) {
  for (const int64_t count : {int64_t{20}, int64_t{200}}) {
    Tokens tokens = {2, kHidden};
    draw(tokens, 0, count);
    const std::vector<float> inputs = tokens.inputs;
    for (int64_t token = 0; token < count; token++)
      tokens.add(1, std::span(inputs).subspan(static_cast<size_t>(token * kHidden), kHidden));
    expect_finite(tokens.fit());
  }
}

TEST(RidgeFit, TokensThatAllAreEqual) {
  for (const float value : {0.0f, 1.0f, 1e-20f})
    for (const int count : {16, 200}) {
      Tokens tokens = {3, kHidden};
      for (int i = 0; i < 3 * count; i++) tokens.add(i % 3, std::vector<float>(kHidden, value));
      expect_finite(tokens.fit());
    }
}

TEST(RidgeFit, OneExpertNeedsNoRows) {
  for (const int64_t count : {int64_t{20}, int64_t{200}}) {
    Tokens tokens = {1, kHidden};
    draw(tokens, 0, count);
    for (const float value : tokens.fit()) EXPECT_EQ(value, 0) << count;
  }
}

TEST(RidgeFit, FewerTokensThanNumbers) {
  Tokens tokens = {2, 40};
  draw(tokens, 0, 16);
  draw(tokens, 1, 16);
  const std::vector<float> rows = tokens.fit();
  expect_finite(rows);
  for (size_t token = 0; token < tokens.meant.size(); token++) {
    const auto x = std::span(tokens.inputs).subspan(token * 40, 40);
    const auto own = static_cast<size_t>(tokens.meant[token]);
    EXPECT_GT(logit(rows, own, x), logit(rows, 1 - own, x)) << token;
  }
}

TEST(RidgeFit, DamagedInputsAreRefused) {
  Tokens tokens = two_classes(20, 20);
  tokens.inputs[5] = NAN;
  EXPECT_THROW(tokens.fit(), Error);
}

}  // namespace
}  // namespace moerge
