#include "moerge/moe/auto_mode.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

namespace moerge {
namespace {

constexpr int64_t kSentence = 4;  // words

bool is_sentence(const std::string& prompt) {
  std::istringstream words(prompt);
  int64_t count = 0;
  for (std::string word; words >> word;) count++;
  return count >= kSentence;
}

bool has_sentences(const ExpertConfig& expert) {
  const auto sentences = std::ranges::count_if(expert.positive_prompts, is_sentence);
  return 2 * sentences > std::ssize(expert.positive_prompts);
}

}  // namespace

ChosenMode choose_gate_mode(std::span<const ExpertConfig> experts) {
  const auto with_data =
      std::ranges::count_if(experts, [](const ExpertConfig& e) { return !e.data.empty(); });
  const auto count = std::ssize(experts);
  if (count > 0 && with_data == count) return {"ridge", "every expert has data"};
  if (with_data > 0)
    return {"router_input",
            fmt::format("{} of {} experts {} data; with data for every expert it would be ridge", with_data,
                        count, with_data == 1 ? "has" : "have")};
  if (count > 0 && std::ranges::all_of(experts, has_sentences))
    return {"router_input", "the prompts of every expert are sentences"};
  return {"hidden", "the prompts are single words"};
}

}  // namespace moerge
