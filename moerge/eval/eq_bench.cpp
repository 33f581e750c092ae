#include "moerge/eval/eq_bench.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "moerge/base/error.h"
#include "moerge/eval/regex.h"

namespace moerge {
namespace {

// float() of digits. Those of other scripts and what no double can hold are no number here.
std::optional<double> number_of(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || end != text.c_str() + text.size() || !std::isfinite(value)) return {};
  return value;
}

// The members of an object, whether it is one or, as in the data set, the text of a Python dict.
std::vector<std::pair<std::string, std::string>> members_of(const Json& reference) {
  std::vector<std::pair<std::string, std::string>> out;
  if (reference.is_object()) {
    for (const auto& [key, value] : reference.items())
      out.emplace_back(key, value.is_string() ? value.get<std::string>() : value.dump());
  } else if (reference.is_string()) {
    static const Regex pair(R"re(["'](\w+)["']\s*:\s*(?:"([^"]*)"|'([^']*)'|([-+.0-9]+)))re", "EQ-Bench");
    for (const Regex::Match& match : pair.find_all(reference.get_ref<const std::string&>()))
      out.emplace_back(*match[1], match[2] ? *match[2] : match[3] ? *match[3] : *match[4]);
  }
  return out;
}

// Its four emotions are the reference's.
bool fits(const std::array<EmotionScore, 4>& reference, const std::vector<EmotionScore>& answer) {
  return answer.size() == 4 && std::ranges::all_of(answer, [&](const EmotionScore& said) {
           return std::ranges::find(reference, said.emotion, &EmotionScore::emotion) != reference.end();
         });
}

// Small differences count for less than they are, large ones for all.
double scaled(double difference) {
  if (difference == 0) return 0;
  return difference <= 5 ? 6.5 / (1 + std::exp(-1.2 * (difference - 4))) : difference;
}

template <typename Scale>
double sum_of_differences(const std::array<EmotionScore, 4>& reference,
                          const std::vector<EmotionScore>& answer, Scale scale) {
  double sum = 0;
  for (const EmotionScore& said : answer)
    for (const EmotionScore& meant : reference)
      if (said.emotion == meant.emotion) sum += scale(std::abs(said.score - meant.score));
  return sum;
}

}  // namespace

std::array<EmotionScore, 4> read_emotions(const Json& reference, const std::string& where) {
  const auto members = members_of(reference);
  const auto member = [&](const std::string& key) {
    for (const auto& [name, value] : members)
      if (name == key) return value;
    fail(ErrorKind::input,
         "{}: EQ-Bench's reference answer has no \"{}\": an object with emotion1 to emotion4 and "
         "emotion1_score to emotion4_score is expected",
         where, key);
  };
  std::array<EmotionScore, 4> out;
  for (size_t i = 0; i < out.size(); i++) {
    const std::string key = fmt::format("emotion{}", i + 1), score = member(key + "_score");
    const std::optional<double> value = number_of(score);
    if (!value)
      fail(ErrorKind::input, "{}: EQ-Bench's reference answer: \"{}_score\" should be a number, found \"{}\"",
           where, key, score);
    out[i] = {member(key), *value};
  }
  return out;
}

std::vector<EmotionScore> find_emotions(const std::string& answer) {
  static const Regex pair(R"((\w+):\s+(\d+))", "EQ-Bench");
  std::vector<EmotionScore> out;
  for (const Regex::Match& match : pair.find_all(answer)) {
    const std::optional<double> score = number_of(*match[2]);
    if (!score) return {};
    const auto known = std::ranges::find(out, *match[1], &EmotionScore::emotion);
    if (known == out.end())
      out.push_back({*match[1], *score});
    else
      known->score = *score;
  }
  return out;
}

std::optional<double> score_emotions(const std::array<EmotionScore, 4>& reference,
                                     const std::vector<EmotionScore>& answer) {
  if (!fits(reference, answer)) return {};
  return 10 - 0.7477 * sum_of_differences(reference, answer, scaled);
}

std::optional<double> score_emotions_v1(const std::array<EmotionScore, 4>& reference,
                                        std::vector<EmotionScore> answer) {
  double sum = 0;
  for (const EmotionScore& said : answer) sum += said.score;
  if (!fits(reference, answer) || sum <= 0) return {};
  for (EmotionScore& said : answer) said.score = said.score / sum * 10;
  return 10 - sum_of_differences(reference, answer, [](double difference) { return difference; });
}

}  // namespace moerge
