#pragma once
// The routers of a build, made while its weights are copied.

#include <atomic>
#include <functional>
#include <future>
#include <memory>

#include "moerge/base/progress.h"
#include "moerge/model/prompt_encoder.h"
#include "moerge/moe/planner.h"

namespace moerge {

/// Memory that the job takes beside its encoder's.
int64_t gate_bytes(const MoePlan& moe);

/// A thread that fills MoePlan::gates; stopped, at the next layer, when the object goes.
class GateJob {
 public:
  /// `encoder`: over what the gate mode needs, null where it needs nothing. `moe` must outlive this object.
  /// `done` is called by that thread with what it has made.
  GateJob(MoePlan& moe, std::unique_ptr<PromptEncoder> encoder, Reporter& reporter,
          std::function<void(const Gates&)> done = {});
  GateJob(const GateJob&) = delete;
  GateJob& operator=(const GateJob&) = delete;
  ~GateJob();

  /// Throws what the job threw, if it has already failed.
  void check() const;

 private:
  std::atomic<bool> stop_{false};
  std::unique_ptr<PromptEncoder> encoder_;
  std::shared_future<Gates> gates_;
};

}  // namespace moerge
