#pragma once
// EQ-Bench (Paech, https://arxiv.org/abs/2312.06281): how strong four emotions are, said by a model and by
// people. https://github.com/EQ-bench/EQ-Bench, version 2.1, without the revision of answers.

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moerge/base/json.h"

namespace moerge {

struct EmotionScore {
  std::string emotion;
  double score = 0;
};

/// What a question's answer is compared with: an object, or the text of one in JSON or Python, with members
/// emotion1 to emotion4 and emotion1_score to emotion4_score. Throws input for anything else.
std::array<EmotionScore, 4> read_emotions(const Json& reference, const std::string& where);

/// The pairs "emotion: number" of an answer; of two for one emotion the last number, at the first one's
/// place.
std::vector<EmotionScore> find_emotions(const std::string& answer);

/// 10 for the reference's own scores, about 0 for random ones, or less. Nothing unless the answer has exactly
/// the four emotions.
std::optional<double> score_emotions(const std::array<EmotionScore, 4>& reference,
                                     const std::vector<EmotionScore>& answer);
/// The first version's, of scores that are scaled to a sum of 10.
std::optional<double> score_emotions_v1(const std::array<EmotionScore, 4>& reference,
                                        std::vector<EmotionScore> answer);

}  // namespace moerge
