#pragma once
// Which experts had a token, read while llama.cpp generates: llama.cpp tells a callback of every tensor that
// it computes, and its server's batches pass through a function of ours, which knows whose tokens the columns
// of those tensors are.

#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

struct ggml_tensor;
struct llama_batch_ext;
struct llama_context;

namespace moerge {

/// One token's way through a mixture's layers.
struct TokenRouting {
  int64_t position = 0;  // in the context, from 0
  int32_t token = 0;
  std::vector<int32_t> experts;  // [layers with experts, experts per token], the first choice first
  std::vector<float> weights;    // of the same shape: their shares, which sum to 1 in each layer
};

/// The tap of the one model that this process runs. Without followers it costs next to nothing: no tensor is
/// asked for.
class RoutingTap {
 public:
  RoutingTap();
  RoutingTap(const RoutingTap&) = delete;
  RoutingTap& operator=(const RoutingTap&) = delete;
  ~RoutingTap();

  /// A ggml_backend_sched_eval_callback; `self` is the tap.
  static bool on_tensor(ggml_tensor* tensor, bool ask, void* self);
  /// In place of llama_process(context, decode, batch).
  int32_t process(llama_context* context, llama_batch_ext* batch);

  /// Follows the tokens that are generated after a prompt. Routing depends on nothing but the tokens before,
  /// so it is found by them, whichever slot of the server has the request. Only one token after another is
  /// recorded, no prompts.
  class Follower {
   public:
    /// Before the request is posted.
    Follower(RoutingTap& tap, std::vector<int32_t> prompt);
    Follower(const Follower&) = delete;
    Follower& operator=(const Follower&) = delete;
    ~Follower();

    /// The token of the answer at `index`, from 0; those before that were never told may be any.
    void generated(int64_t index, int32_t token);
    /// The routing of answered tokens that has become known since the last call, in order. A token is routed
    /// when it is read, to write the next: the last of a text that was cut off never is. `slot` decides
    /// between requests that cannot be told apart by their tokens; without it those wait.
    std::vector<TokenRouting> poll(std::optional<int32_t> slot = std::nullopt);

   private:
    friend RoutingTap;
    RoutingTap& tap_;
    std::vector<int32_t> prompt_, answer_;
    size_t next_ = 0;  // of the answer
  };

 private:
  struct Column {
    int32_t sequence, token;
    int64_t position;
    bool output, alone;  // alone: the only one of its sequence in the batch
  };
  // What one sequence has read, from the beginning of its context, and the routing of some, by position.
  struct Run {
    int32_t sequence;
    std::vector<int32_t> tokens;
    std::map<int64_t, TokenRouting> routed;
  };

  static void read(const ggml_tensor* tensor, std::vector<uint8_t>& bytes);
  void begin_graph(const ggml_tensor* rows);
  void take(const ggml_tensor* weights, bool first);
  void commit();
  void forget_old_runs();
  const TokenRouting* find(const Follower& follower, std::optional<int32_t> slot) const;

  std::mutex mutex_;
  int followers_ = 0;
  std::map<int32_t, std::vector<int32_t>> read_;  // the tokens in each sequence's context
  std::list<Run> runs_;                           // while there are followers, the latest first
  // The batch that is being computed, by the one thread that computes.
  std::vector<Column> columns_;
  std::vector<TokenRouting> passing_;  // one for each column
  size_t first_ = 0, count_ = 0;       // columns of the graph that is being computed
  const ggml_tensor* chosen_ = nullptr;
  bool wanted_ = false, reads_ = false, lost_ = false;
  std::vector<uint8_t> bytes_;
};

}  // namespace moerge
