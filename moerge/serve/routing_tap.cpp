#include "moerge/serve/routing_tap.h"

#include <ggml-backend.h>
#include <ggml.h>
#include <llama-batch.h>
#include <llama.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <set>
#include <string_view>

namespace moerge {
namespace {

constexpr size_t kMaxOldRuns = 16;  // of earlier requests, for followers that have not read theirs yet

constexpr int32_t kAnyToken = -1;
constexpr int32_t kUnknown = -2;  // read before by another sequence, of which this one is a copy

std::atomic<RoutingTap*> the_tap = nullptr;  // of the one model that this process runs

// "ffn_moe_topk-12": the tensor of that name in layer 12. Views of it are called "ffn_moe_topk-12 (view)".
bool is_of_layer(const ggml_tensor* tensor, std::string_view name) {
  const std::string_view whole = tensor->name;
  return whole.size() > name.size() + 1 && whole.starts_with(name) && whole[name.size()] == '-' &&
         whole.find_first_not_of("0123456789", name.size() + 1) == std::string_view::npos;
}

// The embeddings of the tokens that a graph is given; the ids may be a copy for another device.
bool looks_up_tokens(const ggml_tensor* tensor) {
  return tensor->op == GGML_OP_GET_ROWS &&
         std::string_view(tensor->src[1]->name).find("inp_tokens") != std::string_view::npos;
}

}  // namespace

RoutingTap::RoutingTap() { the_tap = this; }
RoutingTap::~RoutingTap() { the_tap = nullptr; }

bool RoutingTap::on_tensor(ggml_tensor* tensor, bool ask, void* self) {
  RoutingTap& tap = *static_cast<RoutingTap*>(self);
  if (!tap.wanted_ || tap.lost_) return !ask;
  if (ask) {
    if (looks_up_tokens(tensor)) tap.begin_graph(tensor);
    if (is_of_layer(tensor, "ffn_moe_topk")) tap.chosen_ = tensor;
    // The choices are read together with their weights, they live until the experts have been computed.
    return tap.reads_ &&
           (is_of_layer(tensor, "ffn_moe_weights") || is_of_layer(tensor, "ffn_moe_weights_softmax"));
  }
  tap.take(tensor, is_of_layer(tensor, "ffn_moe_weights"));
  return true;
}

void RoutingTap::read(const ggml_tensor* tensor, std::vector<uint8_t>& bytes) {
  bytes.resize(ggml_nbytes(tensor));
  ggml_backend_tensor_get(tensor, bytes.data(), 0, bytes.size());
}

// A batch is computed in one graph or several, each with the next of its tokens.
void RoutingTap::begin_graph(const ggml_tensor* rows) {
  first_ += count_;
  count_ = static_cast<size_t>(rows->src[1]->ne[0]);
  chosen_ = nullptr;
  reads_ = false;
  if (first_ + count_ > columns_.size()) {
    lost_ = true;
    return;
  }
  reads_ = std::any_of(columns_.begin() + static_cast<ptrdiff_t>(first_),
                       columns_.begin() + static_cast<ptrdiff_t>(first_ + count_),
                       [](const Column& c) { return c.alone; });
  if (!reads_) return;
  read(rows->src[1], bytes_);
  for (size_t i = 0; i < count_; i++) {
    int32_t token;
    std::memcpy(&token, bytes_.data() + i * sizeof token, sizeof token);
    if (token != columns_[first_ + i].token)
      lost_ = true;  // another order than ours: better nothing than another's
  }
}

void RoutingTap::take(const ggml_tensor* weights, bool first) {
  // [1, experts per token, tokens], or [experts per token, tokens]
  const int64_t used = chosen_ ? chosen_->ne[0] : 0;
  const int64_t tokens = chosen_ ? chosen_->ne[1] : 0;
  if (!chosen_ || chosen_->type != GGML_TYPE_I32 || weights->type != GGML_TYPE_F32 ||
      !ggml_is_contiguous(weights) || ggml_nelements(weights) != used * tokens) {
    lost_ = true;
    return;
  }
  // The last layer only computes the tokens whose logits are wanted.
  std::vector<size_t> columns;
  for (size_t i = first_; i < first_ + count_; i++)
    if (static_cast<size_t>(tokens) == count_ || columns_[i].output) columns.push_back(i);
  if (columns.size() != static_cast<size_t>(tokens)) {
    lost_ = true;
    return;
  }
  read(chosen_, bytes_);
  std::vector<uint8_t> values;
  read(weights, values);
  for (size_t row = 0; row < columns.size(); row++) {
    if (!columns_[columns[row]].alone) continue;
    TokenRouting& routing = passing_[columns[row]];
    if (!first) routing.weights.resize(routing.weights.size() - static_cast<size_t>(used));
    float sum = 0;
    for (int64_t k = 0; k < used; k++) {
      int32_t expert;
      std::memcpy(&expert, bytes_.data() + row * chosen_->nb[1] + static_cast<size_t>(k) * chosen_->nb[0],
                  sizeof expert);
      if (first) routing.experts.push_back(expert);
      float weight;
      std::memcpy(&weight,
                  values.data() + (row * static_cast<size_t>(used) + static_cast<size_t>(k)) * sizeof weight,
                  sizeof weight);
      routing.weights.push_back(weight);
      sum += weight;
    }
    if (sum > 0)
      for (auto w = routing.weights.end() - used; w != routing.weights.end(); ++w) *w /= sum;
  }
}

int32_t RoutingTap::process(llama_context* context, llama_batch_ext* batch) {
  {
    const std::lock_guard lock(mutex_);
    wanted_ = followers_ > 0;
  }
  std::map<int32_t, int> tokens_of;
  columns_.clear();
  for (const llama_batch_ext::token& token : batch->tokens) {
    const int32_t sequence = token.seq_ids.size() == 1 ? *token.seq_ids.begin() : -1;
    tokens_of[sequence]++;
    columns_.push_back({sequence, token.id, token.pos[0], token.output, false});
  }
  for (Column& column : columns_) column.alone = column.sequence >= 0 && tokens_of[column.sequence] == 1;
  passing_.assign(columns_.size(), {});
  first_ = count_ = 0;
  lost_ = reads_ = false;
  const int32_t result = llama_process(context, LLAMA_PROCESS_TYPE_DECODE, batch);
  if (result == 0) commit();
  wanted_ = false;
  return result;
}

void RoutingTap::commit() {
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < columns_.size(); i++) {
    const Column& column = columns_[i];
    if (column.sequence < 0) continue;
    std::vector<int32_t>& read = read_[column.sequence];
    read.resize(static_cast<size_t>(column.position), kUnknown);
    read.push_back(column.token);
    if (followers_ == 0) continue;
    const auto same = [&](const Run& run) { return run.sequence == column.sequence; };
    auto run = std::find_if(runs_.begin(), runs_.end(), same);
    if (run == runs_.end() || column.position != std::ssize(run->tokens)) {
      runs_.push_front({column.sequence, read, {}});
      run = runs_.begin();
      forget_old_runs();
    } else {
      run->tokens.push_back(column.token);
    }
    if (!column.alone || lost_ || passing_[i].experts.empty()) continue;
    passing_[i].position = column.position;
    passing_[i].token = column.token;
    run->routed.emplace(column.position, std::move(passing_[i]));
  }
}

// The newest of each sequence stays.
void RoutingTap::forget_old_runs() {
  std::set<int32_t> seen;
  size_t old = 0;
  for (auto run = runs_.begin(); run != runs_.end();)
    run = seen.insert(run->sequence).second || ++old <= kMaxOldRuns ? std::next(run) : runs_.erase(run);
}

RoutingTap::Follower::Follower(RoutingTap& tap, std::vector<int32_t> prompt)
    : tap_(tap), prompt_(std::move(prompt)) {
  const std::lock_guard lock(tap_.mutex_);
  tap_.followers_++;
}

RoutingTap::Follower::~Follower() {
  const std::lock_guard lock(tap_.mutex_);
  if (--tap_.followers_ == 0) tap_.runs_.clear();
}

void RoutingTap::Follower::generated(int64_t index, int32_t token) {
  if (static_cast<size_t>(index) >= answer_.size()) answer_.resize(static_cast<size_t>(index) + 1, kAnyToken);
  answer_[static_cast<size_t>(index)] = token;
}

std::vector<TokenRouting> RoutingTap::Follower::poll(std::optional<int32_t> slot) {
  const std::lock_guard lock(tap_.mutex_);
  std::vector<TokenRouting> out;
  while (next_ < answer_.size()) {
    const TokenRouting* found = tap_.find(*this, slot);
    if (!found) break;
    out.push_back(*found);
    next_++;
  }
  return out;
}

// In a run that has read all that is known of the request, from the beginning to the token in question.
const TokenRouting* RoutingTap::find(const Follower& follower, std::optional<int32_t> slot) const {
  const size_t prompt = follower.prompt_.size(), wanted = prompt + follower.next_;
  const TokenRouting* found = nullptr;
  for (const Run& run : runs_) {
    if (run.tokens.size() <= wanted || (slot && run.sequence != *slot)) continue;
    bool same = std::equal(follower.prompt_.begin(), follower.prompt_.end(), run.tokens.begin());
    for (size_t i = 0; i <= follower.next_ && same; i++)
      same = follower.answer_[i] == kAnyToken || run.tokens[prompt + i] == follower.answer_[i];
    const auto routed = run.routed.find(static_cast<int64_t>(wanted));
    if (!same || routed == run.routed.end()) continue;
    // Two that have read the same so far: equal but for rounding, and the slot will decide.
    if (found && found->experts != routed->second.experts) return nullptr;
    found = &routed->second;
  }
  return found;
}

}  // namespace moerge

// In place of llama_process() where llama.cpp's server computes its batches (cmake/llama/CMakeLists.txt).
extern "C" int32_t moerge_llama_process(llama_context* context, llama_process_type type,
                                        llama_batch_ext* batch) {
  moerge::RoutingTap* tap = moerge::the_tap;
  if (!tap || type != LLAMA_PROCESS_TYPE_DECODE) return llama_process(context, type, batch);
  return tap->process(context, batch);
}
