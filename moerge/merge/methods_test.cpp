// Every method against the values that mergekit 0.1.5 gave for the same tensors (tests/merge/methods.py), and
// what can be said of those that draw.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "moerge/base/json.h"
#include "moerge/merge/method.h"
#include "moerge/testing/merge_tensor.h"

namespace moerge {
namespace {

using testing::merge_job;
using testing::merged;
using Rows = testing::MergeRows;

double unit_of(double value, DType dtype) {  // of the last place
  const int bits = dtype == DType::bf16 ? 7 : dtype == DType::f16 ? 10 : 23;
  return std::ldexp(1, std::max(std::ilogb(value), dtype == DType::f16 ? -14 : -126) - bits);
}

// Units in the last place. In float32 what differs is PyTorch's sums of float32, where ours are of float64;
// karcher keeps its mean in the tensor's type between its steps.
double allowed(const std::string& method, DType dtype) {
  if (dtype == DType::f32) return 8;
  return method == "karcher" ? 4 : method == "nearswap" ? 2 : 1;
}

TEST(MergeMethods, GiveWhatMergekitGives) {
  const Json golden = read_json(MOERGE_SOURCE_DIR "/tests/golden/merge_methods.json", 16 << 20);
  const Shape shape = golden["shape"].get<Shape>();
  std::map<std::string, int> seen;
  for (const Json& line : golden["jobs"]) {
    const std::string method = line["method"], type = line["dtype"], name = line["name"];
    const DType dtype = find_dtype(type)->dtype;
    Rows inputs;
    for (const Json& row : line["inputs"])
      inputs.push_back(golden["tensors"][type][row.get<size_t>()].get<std::vector<float>>());
    const MergeJob job = merge_job(line, shape, inputs.size());
    const auto expected = line["result"].get<std::vector<float>>();
    const std::vector<float> found = merged(job, inputs, 4);
    ASSERT_EQ(found.size(), expected.size());
    EXPECT_EQ(found, merged(job, inputs, 1000)) << name << ", " << type << ": depends on the blocks";
    seen[method]++;
    double worst = 0;
    int apart = 0;
    for (size_t e = 0; e < found.size(); e++) {
      if (found[e] == expected[e]) continue;
      double scale = std::max(std::abs(found[e]), std::abs(expected[e]));
      for (const std::vector<float>& input : inputs) scale = std::max(scale, double{std::abs(input[e])});
      const double units = std::abs(double{found[e]} - double{expected[e]}) / unit_of(scale, dtype);
      apart += units > allowed(method, dtype);
      worst = std::max(worst, units);
    }
    // Whether a value at the threshold counts is a matter of the last digits of float32.
    EXPECT_LE(apart, method == "arcee_fusion" && dtype == DType::f32 ? 1 : 0)
        << name << ", " << type << ": " << worst << " units in the last place";
  }
  for (const MergeMethod* method : merge_methods())
    EXPECT_GT(seen[std::string(method->name)], 0) << method->name;
}

// A base of zeros and models of ones: the result says what was kept.
TEST(MergeMethods, RandomThinningKeepsTheShareAndTheSum) {
  const Shape shape = {200, 500};
  const Rows inputs = {std::vector<float>(100'000, 0.0f), std::vector<float>(100'000, 1.0f)};
  const auto run = [&](const char* method, uint64_t seed, const Json& more = Json::object()) {
    Json values = {{"weight", {0, 1}}, {"density", {0, 0.3}}};
    values.update(more);
    const Json job = {
        {"method", method}, {"dtype", "float32"}, {"base", 0}, {"values", values}, {"seed", seed}};
    return merged(merge_job(job, shape, 2), inputs, 3);
  };
  for (const char* method : {"dare_linear", "dare_ties", "della", "della_linear"}) {
    const std::vector<float> values = run(method, 1);
    const auto kept =
        static_cast<double>(std::ranges::count_if(values, [](float value) { return value != 0; }));
    EXPECT_NEAR(kept / 100'000, 0.3, 0.006) << method;  // four standard errors
    double sum = 0;
    for (const float value : values) sum += double{value};
    EXPECT_NEAR(sum, 100'000, 1) << method;
    EXPECT_EQ(values, run(method, 1)) << method;
    EXPECT_NE(values, run(method, 2)) << method;
    const std::vector<float> plain = run(method, 1, {{"rescale", {0}}});
    for (const float value : plain) EXPECT_TRUE(value == 0 || value == 1) << method;
  }
}

// Of each row, the larger ones more often: density - epsilon for the smallest, density + epsilon for the
// largest.
TEST(MergeMethods, DellaKeepsLargeValuesMoreOften) {
  constexpr size_t kRows = 4000, kColumns = 5;
  Rows inputs = {std::vector<float>(kRows * kColumns, 0.0f), {}};
  for (size_t e = 0; e < kRows * kColumns; e++)
    inputs[1].push_back(static_cast<float>(1 + (e * 3) % kColumns));
  const Json values = {{"weight", {0, 1}}, {"density", {0, 0.5}}, {"epsilon", {0, 0.4}}, {"rescale", {0}}};
  const Json job = {{"method", "della_linear"}, {"dtype", "float32"}, {"base", 0}, {"values", values}};
  const std::vector<float> out = merged(merge_job(job, {kRows, kColumns}, 2), inputs, 7);
  double kept[kColumns + 1] = {};
  for (const float value : out) kept[static_cast<size_t>(value)]++;
  for (size_t rank = 0; rank < kColumns; rank++)
    EXPECT_NEAR(kept[rank + 1] / kRows, 0.1 + 0.2 * static_cast<double>(rank), 0.035) << rank;
}

}  // namespace
}  // namespace moerge
