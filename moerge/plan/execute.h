#pragma once
// Runs a plan into a sink: a parallel loop over its parts, in bounded memory.

#include <functional>

#include "moerge/base/progress.h"
#include "moerge/formats/sink.h"
#include "moerge/plan/plan.h"

namespace moerge {

struct ExecuteOptions {
  int threads = 1;
  Progress* progress = nullptr;
  /// Called before each piece of work; may throw to stop the run.
  std::function<void()> check = {};
  /// What was read leaves the page cache.
  bool forget = false;
};

/// Copies and converts first, each source from its beginning to its end, computed tensors last; what the sink
/// does not want is left out. Memory: two small buffers a thread, plus one computed
/// tensor. The result does not depend on the number of threads. Throws what the sink, a fill or check()
/// throws.
void execute(const Plan& plan, TensorSink& sink, const ExecuteOptions& options);

/// The most memory that execute() holds at a time: the buffers of its threads, or of one computed tensor.
int64_t buffer_bytes(const Plan& plan, int threads);

}  // namespace moerge
