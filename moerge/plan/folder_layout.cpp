#include "moerge/plan/folder_layout.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <tuple>

namespace moerge {
namespace {

// A shard that shares less is not worth being a file of its own.
constexpr int64_t kWorthAFile = 32 << 20;

// A step that may be shared.
struct Candidate {
  size_t step;
  int64_t phase;  // of its first byte in the source, modulo the block size
  int64_t bytes, shared;
  const StoredTensor* source;
};

// Nothing unless every byte is copied and all parts lie in their sources as they will lie in the result.
std::optional<Candidate> candidate(const Step& step, size_t index, const BlockSharing& sharing) {
  const Concat* concat = std::get_if<Concat>(&step.how);
  if (!concat || concat->parts.empty()) return std::nullopt;
  Candidate out = {.step = index, .phase = -1, .bytes = step.out.bytes(), .shared = 0, .source = nullptr};
  int64_t at = 0;
  for (const Part& part : concat->parts) {
    const StoredTensor& source = *part.source;
    if (!part.is_copied(step.out.dtype) || !sharing.possible(*source.file)) return std::nullopt;
    const int64_t phase = sharing.start_for(source.offset, at);
    if (phase % 8 != 0 || (out.phase >= 0 && phase != out.phase)) return std::nullopt;
    out.phase = phase;
    if (!out.source) out.source = &source;
    out.shared += sharing.whole_blocks(source.offset, source.spec.bytes());
    at += source.spec.bytes();
  }
  return out;
}

class Layouter {
 public:
  Layouter(const Plan& plan, int64_t max_shard_bytes, int64_t block)
      : specs_(plan.specs()), max_shard_bytes_(max_shard_bytes), block_(block) {}

  void add(const Candidate& candidate) { waiting_[candidate.phase].push_back(candidate); }

  FolderLayout finish() {
    int64_t all = 0;
    for (auto& [phase, candidates] : waiting_) {
      // First those that shift nothing; each source forwards.
      std::ranges::stable_sort(candidates, {}, [&](const Candidate& c) {
        return std::tuple(c.bytes % block_ != 0, c.source->file->file().path().native(), c.source->offset);
      });
      for (const Candidate& candidate : candidates) all += candidate.shared;
    }
    const int64_t enough = std::max<int64_t>(1, std::min(kWorthAFile, all / 4));
    while (const std::optional<int64_t> phase = richest_phase()) {
      const std::vector<Candidate> chain = take_chain(*phase);
      int64_t shared = 0;
      for (const Candidate& candidate : chain) shared += candidate.shared;
      if (shared < enough) break;  // no other is richer by much, and the rest goes together
      layout_.shared += shared;
      add_shards(chain);
    }
    add_rest();
    name_shards(layout_.shards);
    return std::move(layout_);
  }

 private:
  std::optional<int64_t> richest_phase() const {
    std::optional<int64_t> best;
    int64_t most = 0;
    for (const auto& [phase, candidates] : waiting_) {
      int64_t shared = 0;
      for (const Candidate& candidate : candidates) shared += candidate.shared;
      if (shared > most) best = phase, most = shared;
    }
    return best;
  }

  // Tensors that lie one after the other as in their sources, as far as that goes.
  std::vector<Candidate> take_chain(int64_t phase) {
    std::vector<Candidate> chain;
    for (auto found = waiting_.find(phase); found != waiting_.end(); found = waiting_.find(phase)) {
      chain.push_back(found->second.front());
      found->second.pop_front();
      if (found->second.empty()) waiting_.erase(found);
      phase = (phase + chain.back().bytes) % block_;
    }
    return chain;
  }

  void add_shards(const std::vector<Candidate>& chain) {
    int64_t used = 0, phase = 0;
    Shard* shard = nullptr;
    const auto close = [&] {
      if (!shard) return;
      const int64_t header = std::ssize(shard->header(specs_));
      shard->padding = ((phase - header) % block_ + block_) % block_;
    };
    for (const Candidate& candidate : chain) {
      if (!shard || used + candidate.bytes > max_shard_bytes_) {
        close();
        shard = &layout_.shards.emplace_back();
        used = 0, phase = candidate.phase;
      }
      shard->tensors.push_back(candidate.step);
      used += candidate.bytes;
      placed_.push_back(candidate.step);
    }
    close();
  }

  void add_rest() {
    std::ranges::sort(placed_);
    std::vector<size_t> steps;
    std::vector<TensorSpec> rest;
    for (size_t i = 0; i < specs_.size(); i++)
      if (!std::ranges::binary_search(placed_, i)) {
        steps.push_back(i);
        rest.push_back(specs_[i]);
      }
    for (Shard& shard : plan_shards(rest, max_shard_bytes_)) {
      for (size_t& tensor : shard.tensors) tensor = steps[tensor];
      layout_.shards.push_back(std::move(shard));
    }
  }

  const std::vector<TensorSpec> specs_;
  const int64_t max_shard_bytes_, block_;
  std::map<int64_t, std::deque<Candidate>> waiting_;  // by phase
  std::vector<size_t> placed_;
  FolderLayout layout_;
};

}  // namespace

int64_t FolderLayout::file_bytes(const Plan& plan) const {
  const std::vector<TensorSpec> specs = plan.specs();
  int64_t total = plan.totals().bytes;
  for (const Shard& shard : shards) total += std::ssize(shard.header(specs));
  return total;
}

FolderLayout lay_out_by_size(const Plan& plan, int64_t max_shard_bytes) {
  return {.shards = plan_shards(plan.specs(), max_shard_bytes)};
}

FolderLayout lay_out_to_share(const Plan& plan, int64_t max_shard_bytes, const BlockSharing& sharing) {
  Layouter layouter(plan, max_shard_bytes, sharing.block);
  for (size_t i = 0; i < plan.steps.size(); i++)
    if (const auto found = candidate(plan.steps[i], i, sharing)) layouter.add(*found);
  FolderLayout layout = layouter.finish();
  if (layout.shared < plan.totals().bytes / 10) return lay_out_by_size(plan, max_shard_bytes);
  return layout;
}

}  // namespace moerge
