#pragma once
// A parallel loop over independent work items. No task graph, no scheduler.

#include <atomic>
#include <cstddef>
#include <functional>

namespace moerge {

/// Threads to use when the user did not say: the cores this process may run on.
int default_threads();

/// Calls work(0..count-1), each once, on up to `threads` threads, in rising order of start. The first
/// exception stops further items and is rethrown here after all threads have ended.
void parallel_for(size_t count, int threads, const std::function<void(size_t)>& work);

}  // namespace moerge
