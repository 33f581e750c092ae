#include "moerge/moe/gate_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "moerge/base/error.h"

namespace moerge {
namespace {

// An encoder that gives up at the next layer once told to.
class Stoppable final : public PromptEncoder {
 public:
  Stoppable(std::unique_ptr<PromptEncoder> inner, const std::atomic<bool>& stop)
      : inner_(std::move(inner)), stop_(stop) {}
  void encode(std::span<const TokenSequence> sequences, const PassTaps& taps) override {
    PassTaps watched = taps;
    watched.entering = [&](int64_t layer, std::span<const float> states) {
      if (stop_) fail(ErrorKind::interrupted, "stopped");
      if (taps.entering) taps.entering(layer, states);
    };
    inner_->encode(sequences, watched);
  }

 private:
  std::unique_ptr<PromptEncoder> inner_;
  const std::atomic<bool>& stop_;
};

Gates make_gates(const MoePlan& moe, Reporter& reporter) {
  const auto start = std::chrono::steady_clock::now();
  Gates gates = moe.gate_mode->make(moe.gate_input);
  if (!std::ranges::all_of(gates.table.values, [](float value) { return std::isfinite(value); }))
    fail(ErrorKind::input, "{}: the router rows made from it hold infinite values or NaN",
         moe.models.base->path.string());
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  reporter.detail(fmt::format(
      "routers made in {:.2f} s{}", seconds.count(),
      gates.fit_seconds > 0 ? fmt::format(", {:.2f} s of them for the fit", gates.fit_seconds) : ""));
  return gates;
}

}  // namespace

// float32 [layers, experts, hidden], and one layer's sums in float64 while they grow.
int64_t gate_bytes(const MoePlan& moe) {
  const GateInput& input = moe.gate_input;
  const int64_t rows = std::ssize(input.experts) * input.hidden;
  const int64_t extra = moe.gate_mode->extra_bytes ? moe.gate_mode->extra_bytes(input) : 0;
  return 4 * input.layers * rows + 8 * rows + extra;
}

GateJob::GateJob(MoePlan& moe, std::unique_ptr<PromptEncoder> encoder, Reporter& reporter,
                 std::function<void(const Gates&)> done) {
  if (encoder) encoder_ = std::make_unique<Stoppable>(std::move(encoder), stop_);
  moe.gate_input.encoder = encoder_.get();
  *moe.gates = std::async(std::launch::async, [&moe, &reporter, done = std::move(done)] {
                 Gates gates = make_gates(moe, reporter);
                 if (done) done(gates);
                 return gates;
               }).share();
  gates_ = *moe.gates;
}

GateJob::~GateJob() {
  stop_ = true;
  gates_.wait();
}

void GateJob::check() const {
  if (gates_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) gates_.get();
}

}  // namespace moerge
