#pragma once
// A GGUF model that is asked in texts: lm-evaluation-harness's rules for tokens, over llama.cpp.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "moerge/engine/token_model.h"
#include "moerge/eval/language_model.h"

namespace moerge {

/// Equal requests are computed once, and so is what several begin with. Answers do not depend on what else is
/// asked beyond rounding. Ends soon after an interrupt.
class LlamaModel final : public LanguageModel {
 public:
  /// As TokenModel.
  explicit LlamaModel(const TokenModelOptions& options, std::function<void(double)> progress = {});

  /// Throws input for a continuation that has no token of its own, and unsupported for one that alone is
  /// longer than the context, before anything is computed.
  void score(std::span<const LoglikelihoodRequest> requests, const LoglikelihoodTold& told) override;
  /// Control tokens count as text for what ends an answer, and are left out of it; what is no UTF-8 becomes
  /// U+FFFD. Throws unsupported where max_tokens leave no room for a context.
  void generate(std::span<const GenerationRequest> requests, const GenerationTold& told) override;
  int64_t context() const override { return model_.context(); }
  std::vector<ExpertLoad> expert_loads() const override { return model_.expert_loads(); }
  /// As in the file, or none.
  std::vector<std::string> expert_names() const;

  const TokenModel& tokens() const { return model_; }

 private:
  std::vector<int32_t> encode(std::string_view text) const;
  int32_t prefix_token() const;
  void add_queries(std::span<const LoglikelihoodRequest> requests, std::span<TokenQuery> queries) const;

  TokenModel model_;
};

}  // namespace moerge
