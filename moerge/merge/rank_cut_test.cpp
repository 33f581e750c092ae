#include "moerge/merge/rank_cut.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "moerge/base/random.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

using End = RankCut::End;

std::vector<size_t> taken(End end, const std::vector<float>& values, int64_t rank, size_t block,
                          bool bf16 = false) {
  RankCut cut(end, std::ssize(values), rank, RankCut::By::magnitude, bf16);
  for (int pass = 0; pass < cut.passes(); pass++) {
    for (size_t first = 0; first < values.size(); first += block)
      cut.look(pass, static_cast<int64_t>(first),
               std::span(values).subspan(first, std::min(block, values.size() - first)));
    cut.end_pass(pass);
  }
  std::vector<size_t> out;
  for (size_t i = 0; i < values.size(); i++)
    if (cut.takes(static_cast<int64_t>(i), values[i])) out.push_back(i);
  if (end == End::largest) {
    std::vector<float> kept = values;
    for (size_t first = 0; first < values.size(); first += block)
      cut.keep(static_cast<int64_t>(first),
               std::span(kept).subspan(first, std::min(block, values.size() - first)));
    for (size_t i = 0; i < values.size(); i++)
      EXPECT_EQ(std::bit_cast<uint32_t>(kept[i]),
                std::ranges::binary_search(out, i) ? std::bit_cast<uint32_t>(values[i]) : 0u);
  }
  return out;
}

std::vector<size_t> sorted(End end, const std::vector<float>& values, int64_t rank) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) {
    const float x = std::abs(values[a]), y = std::abs(values[b]);
    return end == End::largest ? x > y : x < y;
  });
  order.resize(static_cast<size_t>(rank));
  std::ranges::sort(order);
  return order;
}

TEST(RankCut, TakesWhatASortTakes) {
  const RandomStream random(1, "values");
  std::vector<float> values;
  for (uint64_t i = 0; i < 1000; i++) values.push_back(random.normal(i));
  std::vector<float> coarse = values;  // many equal ones
  for (float& value : coarse) value = std::round(4 * value) / 4;
  std::vector<float> near = values;  // that differ in their last bits
  for (float& value : near) value = 1 + value * 1e-6f;
  const std::vector<float> same(77, -2.0f), none, zeros = {0.0f, -0.0f, 0.0f, 1e-45f, -1e-45f};
  const std::vector<float>* const tensors[] = {&values, &coarse, &near, &same, &none, &zeros};
  for (const std::vector<float>* tensor : tensors)
    for (const End end : {End::smallest, End::largest})
      for (const double share : {0.0, 0.001, 0.3, 0.5, 0.9, 0.999, 1.0}) {
        const auto rank = static_cast<int64_t>(share * static_cast<double>(tensor->size()));
        for (const size_t block : {size_t{1}, size_t{64}, size_t{5000}})
          EXPECT_EQ(taken(end, *tensor, rank, block), sorted(end, *tensor, rank)) << share << " " << block;
      }
}

TEST(RankCut, OfBf16InTwoPasses) {
  const RandomStream random(3, "values");
  std::vector<float> values;
  for (uint64_t i = 0; i < 3000; i++) values.push_back(bf16_to_f32(f32_to_bf16(random.normal(i))));
  for (const End end : {End::smallest, End::largest})
    for (const int64_t rank : {0, 1, 700, 1500, 2999, 3000})
      for (const size_t block : {size_t{1}, size_t{64}, size_t{5000}})
        EXPECT_EQ(taken(end, values, rank, block, true), sorted(end, values, rank)) << rank;
}

// Many equal ones in a tensor of several stretches: the last pass, which searches, wants one of them.
TEST(RankCut, SearchesOneStretch) {
  constexpr size_t kCount = 900'000, kBlock = 1000;
  const RandomStream random(4, "values");
  std::vector<float> values;
  for (uint64_t i = 0; i < kCount; i++) values.push_back(std::round(4 * random.normal(i)) / 4);
  for (const End end : {End::smallest, End::largest})
    for (const bool bf16 : {false, true})
      for (const double share : {0.002, 0.4, 0.7}) {
        const auto rank = static_cast<int64_t>(share * static_cast<double>(kCount));
        EXPECT_EQ(taken(end, values, rank, kBlock, bf16), sorted(end, values, rank)) << share;
        RankCut cut(end, kCount, rank, RankCut::By::magnitude, bf16);
        size_t wanted = 0;
        for (int pass = 0; pass < cut.passes(); pass++) {
          for (size_t first = 0; first < kCount; first += kBlock) {
            if (!cut.wants(pass, static_cast<int64_t>(first), kBlock)) continue;
            wanted += kBlock;
            cut.look(pass, static_cast<int64_t>(first), std::span(values).subspan(first, kBlock));
          }
          cut.end_pass(pass);
        }
        const size_t counted = static_cast<size_t>(cut.passes() - 1) * kCount;
        EXPECT_GE(wanted, counted);
        EXPECT_LE(wanted, counted + kCount / 3);
        const std::vector<size_t> expected = sorted(end, values, rank);
        size_t same = 0;
        for (const size_t i : expected) same += cut.takes(static_cast<int64_t>(i), values[i]);
        EXPECT_EQ(same, expected.size());
      }
}

TEST(RankCut, NotANumberIsTheLargest) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(taken(End::largest, {1, nan, infinity, 3}, 2, 2), (std::vector<size_t>{1, 2}));
  EXPECT_EQ(taken(End::smallest, {1, nan, infinity, 3}, 2, 2), (std::vector<size_t>{0, 3}));
}

TEST(RankCut, FindsTheValueAtARank) {
  const RandomStream random(2, "values");
  std::vector<float> values;
  for (uint64_t i = 0; i < 999; i++) values.push_back(random.normal(i));
  std::vector<float> sorted = values;
  std::ranges::sort(sorted);
  for (const int64_t rank : {1, 250, 500, 998}) {
    RankCut cut(End::smallest, 999, rank, RankCut::By::value);
    for (int pass = 0; pass < 2; pass++) cut.look(pass, 0, values), cut.end_pass(pass);
    EXPECT_EQ(cut.boundary(), sorted[static_cast<size_t>(rank - 1)]) << rank;
  }
}

}  // namespace
}  // namespace moerge
