#include "moerge/base/parallel.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

namespace moerge {
namespace {

TEST(Parallel, EveryItemOnce) {
  for (int threads : {1, 2, 7}) {
    std::vector<std::atomic<int>> seen(1000);
    parallel_for(seen.size(), threads, [&](size_t i) { seen[i]++; });
    for (const std::atomic<int>& n : seen) ASSERT_EQ(n, 1);
  }
}

TEST(Parallel, FirstExceptionStopsTheRest) {
  std::atomic<int> done{0};
  EXPECT_THROW(parallel_for(100000, 4,
                            [&](size_t i) {
                              if (i == 10) throw std::runtime_error("no");
                              done++;
                            }),
               std::runtime_error);
  EXPECT_LT(done, 100000);
}

TEST(Parallel, NothingToDo) {
  parallel_for(0, 4, [](size_t) { FAIL(); });
}

}  // namespace
}  // namespace moerge
