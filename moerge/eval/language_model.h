#pragma once
// What a benchmark asks of a model: how likely a text is after another, and what it would write.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/engine/imatrix.h"

namespace moerge {

struct LoglikelihoodRequest {
  std::string context, continuation;
};

struct Loglikelihood {
  double value = 0;     // sum of ln p over the continuation's tokens
  bool greedy = false;  // each of them is the most likely one
  int64_t tokens = 0;   // of the continuation
  int64_t lost = 0;     // tokens at the beginning that the model was not shown
};

struct GenerationRequest {
  std::string context;
  std::vector<std::string> until;  // ends before the first of these
  int64_t max_tokens = 256;
};

struct GeneratedText {
  std::string text;    // without what ended it
  int64_t tokens = 0;  // that were generated
  int64_t lost = 0;    // tokens at the context's beginning that the model was not shown
};

/// Told once for every request, in any order, from the thread that asked. `index`: of the request.
using LoglikelihoodTold = std::function<void(size_t index, const Loglikelihood& answer)>;
using GenerationTold = std::function<void(size_t index, const GeneratedText& answer)>;

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;

  /// Tokens are those of context + continuation together, the continuation's what comes after as many as the
  /// context alone has; white space at the context's end goes to the continuation first. The
  /// beginning-of-sequence token is added where the tokenizer does so. What is longer than the context of the
  /// model loses tokens on the left.
  virtual void score(std::span<const LoglikelihoodRequest> requests, const LoglikelihoodTold& told) = 0;
  /// Greedily: the most likely token each time.
  virtual void generate(std::span<const GenerationRequest> requests, const GenerationTold& told) = 0;
  /// Tokens of the longest text it can read.
  virtual int64_t context() const = 0;
  /// Where its routers sent the tokens that it has computed; empty for a dense model, and when nobody counts.
  virtual std::vector<ExpertLoad> expert_loads() const { return {}; }
};

}  // namespace moerge
