#pragma once
// A GGUF model in llama.cpp, over tokens: how likely they are after others, and which it would write.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/engine/imatrix.h"
#include "moerge/engine/token_plan.h"

namespace moerge {

struct TokenModelOptions {
  std::filesystem::path model;  // a GGUF file, or the first of a split one
  /// As llama.cpp's programs spell them: {"-t", "4", "-ngl", "20"}. What they do not say: as many threads as
  /// there are cores, keys and values as float32, and flash attention only where it does not round them, with
  /// which results are those of a float32 model (docs/eval.md).
  std::vector<std::string> llama_flags = {};
  /// Tokens of the longest text. 0: what the flags say, else what the model was trained with.
  int64_t context = 0;
  /// Tokens that all texts which are written at once may have together; one is always written.
  int64_t generation_tokens = 16384;
  /// Bytes that a batch's logits may take; there are two copies of them. Of at least 64 tokens.
  int64_t logits_bytes = 32 << 20;
  bool count_experts = false;
};

/// The continuation of one TokenQuery.
struct TokenScore {
  double value = 0;     // sum of ln p
  bool greedy = false;  // each of its tokens is the first of the most likely ones
};

struct TokenPrompt {
  std::vector<int32_t> tokens;  // at least one
  int64_t max_tokens = 0;       // to write
};

/// Computes as Float32Compute says, which is then so for the whole process.
/// llama.cpp's messages are silent, its errors become part of ours. OpenMP's threads stay with the thread
/// that made the object: use it there. One at a time.
class TokenModel {
 public:
  /// `progress` hears now and then which share is loaded, 0 to 1. Throws usage for flags that llama.cpp does
  /// not take, input for a file that is no model, unsupported for models that do not read text from left to
  /// right.
  explicit TokenModel(const TokenModelOptions& options, std::function<void(double)> progress = {});
  TokenModel(const TokenModel&) = delete;
  TokenModel& operator=(const TokenModel&) = delete;
  ~TokenModel();

  int64_t context() const;
  int threads() const;

  /// Special tokens in the text are recognised, none is added. Throws input when llama.cpp gives up. From any
  /// thread.
  std::vector<int32_t> tokenize(std::string_view text) const;
  bool adds_bos() const;
  int32_t bos() const;  // -1: none
  int32_t eos() const;  // likewise
  bool ends_text(int32_t token) const;
  bool is_control(int32_t token) const;
  std::string piece(int32_t token) const;  // its bytes, also of a control token

  /// Throws input for logits that are not finite, unsupported for queries longer than the context.
  void score(std::span<const TokenQuery> queries,
             const std::function<void(size_t query, const TokenScore& score)>& told);
  /// Greedily. `told` hears each token that is written, and says whether to go on.
  void generate(std::span<const TokenPrompt> prompts,
                const std::function<bool(size_t prompt, int32_t token)>& told);

  /// With count_experts: by layer, how often each expert was chosen for the tokens computed so far. What
  /// several texts begin with is computed once, and the last layer computes only tokens whose logits are
  /// needed. Empty for a dense model.
  std::vector<ExpertLoad> expert_loads() const;
  int64_t experts() const;  // of a layer; 0: a dense model
  /// As in expert_names().
  std::vector<std::string> expert_names() const;
  /// Computed so far.
  int64_t computed_tokens() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moerge
