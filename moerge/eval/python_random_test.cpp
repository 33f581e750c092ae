#include "moerge/eval/python_random.h"

#include <gtest/gtest.h>

namespace moerge {
namespace {

using Places = std::vector<size_t>;

// All values: CPython 3.11 and numpy 2.
TEST(PythonRandom, SamplesAsCPythonDoes) {
  PythonRandom random(1234);
  EXPECT_EQ(random.sample(1119, 5), (Places{902, 239, 15, 185, 71}));  // of many: a set of those taken
  EXPECT_EQ(random.sample(1119, 5), (Places{171, 201, 726, 484, 35}));
  EXPECT_EQ(random.sample(50, 25),
            (Places{1,  49, 22, 41, 39, 30, 45, 29, 9, 5,  11, 7, 0,
                    32, 31, 15, 4,  42, 33, 19, 21, 2, 16, 18, 48}));  // of few: a pool
  EXPECT_EQ(random.sample(21, 5), (Places{8, 17, 2, 9, 15}));          // on either side of where it changes
  EXPECT_EQ(random.sample(85, 6), (Places{45, 34, 31, 25, 58, 67}));
  EXPECT_EQ(random.sample(86, 6), (Places{85, 2, 65, 9, 0, 42}));
  EXPECT_EQ(random.sample(3, 0), Places{});
}

TEST(PythonRandom, DrawsBelowABound) {
  PythonRandom random(42);
  std::vector<uint64_t> found;
  for (const uint64_t n : {1ull, 2ull, 3ull, 1000ull, 1ull << 31}) found.push_back(random.below(n));
  EXPECT_EQ(found, (std::vector<uint64_t>{0, 0, 2, 281, 1051802512}));
}

TEST(PythonRandom, SeedsOfSeveralWords) {
  MersenneTwister small = MersenneTwister::from_words({0});
  EXPECT_EQ(small.next(), 3626764237u);
  EXPECT_EQ(small.next(), 1654615998u);
  MersenneTwister large = MersenneTwister::from_words({7, 256});  // 2^40 + 7
  EXPECT_EQ(large.next(), 2635837658u);
  EXPECT_EQ(large.next(), 3209733218u);
}

TEST(PythonRandom, PermutesAsNumpyDoes) {
  EXPECT_EQ(numpy_permutation(42, 0), Places{});
  EXPECT_EQ(numpy_permutation(42, 1), Places{0});
  EXPECT_EQ(numpy_permutation(42, 2), (Places{1, 0}));
  EXPECT_EQ(numpy_permutation(42, 3), (Places{0, 1, 2}));
  EXPECT_EQ(numpy_permutation(42, 5), (Places{1, 4, 2, 0, 3}));
  EXPECT_EQ(numpy_permutation(42, 18),
            (Places{0, 1, 8, 5, 3, 13, 16, 15, 11, 2, 9, 17, 4, 12, 7, 10, 14, 6}));
}

}  // namespace
}  // namespace moerge
