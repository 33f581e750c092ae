// What is wrong with a mixture, in words.

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "moerge/moe/routing_report.h"

namespace moerge {
namespace {

constexpr double kDead = 0.1;          // of an even share
constexpr double kGreedy = 0.6;        // of the first choices
constexpr double kUndecided = 0.95;    // of the largest entropy
constexpr int64_t kEnoughPlaces = 20;  // an even share of a layer, for "dead" to be no accident
constexpr int64_t kEnoughMeant = 5;    // tokens of one expert's texts
constexpr size_t kMaxSentences = 5;    // of one kind; more are summed up

// At the beginning of a sentence.
std::string describe_first(const RoutingReport& report, int64_t expert) {
  std::string out = report.describe(expert);
  out[0] = 'E';
  return out;
}

std::string name_layers(const RoutingReport& report, const std::vector<int64_t>& layers) {
  if (std::ssize(layers) == report.layers()) return "every layer";
  return fmt::format("layer{} {}", layers.size() == 1 ? "" : "s", layer_ranges(layers));
}

// Layers where something holds.
template <typename Holds>
std::vector<int64_t> layers_where(const RoutingReport& report, const Holds& holds) {
  std::vector<int64_t> out;
  for (int64_t layer = 0; layer < report.layers(); layer++)
    if (holds(layer)) out.push_back(layer);
  return out;
}

// Texts are meant for experts, all of them, and none for this one.
bool is_left_out(const RoutingReport& report, int64_t expert) {
  return report.tokens_meant(expert) == 0 &&
         std::ranges::all_of(report.texts, [](const RoutedText& text) { return text.meant >= 0; });
}

std::vector<Finding> find_dead(const RoutingReport& report) {
  std::vector<Finding> found;
  const int64_t places = report.tokens() * report.routing.experts_per_token / report.experts();
  if (report.tokens() < kEnoughTokens || places < kEnoughPlaces) return found;
  const double least = kDead / static_cast<double>(report.experts());
  for (int64_t e = 0; e < report.experts(); e++) {
    if (is_left_out(report, e)) continue;
    const std::vector<int64_t> layers =
        layers_where(report, [&](int64_t layer) { return report.share(layer, e) < least; });
    if (layers.empty()) continue;
    const int64_t meant = report.tokens_meant(e);
    const std::string why =
        meant > 0 ? fmt::format("although {} tokens are meant for it. ", meant)
                  : "It takes memory there and does nothing for these texts; if none of them is its subject, "
                    "add one that is. ";
    found.push_back(
        {"dead_expert",
         {e},
         layers,
         fmt::format("{} is dead in {}: it gets less than a tenth of an even share{} {}{}",
                     describe_first(report, e), name_layers(report, layers), meant > 0 ? "," : ".", why,
                     report.has_prompts ? "Give it positive_prompts that read more like its subject, and the "
                                          "experts that take its tokens negative_prompts."
                                        : "Train the router further, or leave the expert out.")});
  }
  return found;
}

std::vector<Finding> find_greedy(const RoutingReport& report) {
  std::vector<Finding> found;
  if (report.tokens() < kEnoughTokens) return found;
  const double most = std::max(kGreedy, std::min(2.0 / static_cast<double>(report.experts()), 0.9));
  for (int64_t e = 0; e < report.experts(); e++) {
    const double meant = static_cast<double>(report.tokens_meant(e)) / static_cast<double>(report.tokens());
    double sum = 0;
    const std::vector<int64_t> layers = layers_where(report, [&](int64_t layer) {
      const double share = report.first_share(layer, e);
      const bool greedy = share > most && meant < share / 2;
      if (greedy) sum += share;
      return greedy;
    });
    if (layers.empty()) continue;
    found.push_back(
        {"greedy_expert",
         {e},
         layers,
         fmt::format("{} is greedy in {}: it is the first choice of {} of all tokens there, so "
                     "the other experts hardly count. {}",
                     describe_first(report, e), name_layers(report, layers),
                     percent(sum / static_cast<double>(layers.size())),
                     report.has_prompts ? "Its prompts are probably the most general: make them narrower, or "
                                          "give it negative_prompts from the other experts' subjects."
                                        : "Only further training of the router changes that.")});
  }
  return found;
}

std::vector<Finding> find_coinciding(const RoutingReport& report) {
  std::vector<Finding> found;
  for (const Collision& c : report.collisions)
    found.push_back(
        {"collision",
         {c.first, c.second},
         c.layers,
         fmt::format("The router rows of {} and {} nearly coincide in {} (cosine up to {:.3f}): where one is "
                     "chosen the other is as well, or always second. {}",
                     report.describe(c.first), report.describe(c.second), name_layers(report, c.layers),
                     c.cosine,
                     report.has_prompts ? "Make their prompts more different, in words and in form, or keep "
                                          "one of the two experts."
                                        : "One of the two experts can probably be left out.")});
  return found;
}

std::vector<Finding> find_undecided(const RoutingReport& report) {
  const std::vector<int64_t> layers =
      layers_where(report, [&](int64_t layer) { return report.entropy(layer) > kUndecided; });
  if (layers.empty()) return {};
  double sum = 0;
  for (const int64_t layer : layers) sum += report.entropy(layer);
  return {{"undecided",
           {},
           layers,
           fmt::format("Routers cannot decide in {}: the experts' probabilities are nearly even ({} of the "
                       "largest possible entropy), so little more than chance chooses a token's experts, and "
                       "they are weighed alike. {}",
                       name_layers(report, layers), percent(sum / static_cast<double>(layers.size())),
                       report.has_prompts ? "Longer prompts that differ more help, or another gate_mode."
                                          : "Random routers look like this until they are trained.")}};
}

std::vector<Finding> find_wrong(const RoutingReport& report) {
  std::vector<Finding> found;
  for (int64_t e = 0; e < report.experts(); e++) {
    if (report.tokens_meant(e) < kEnoughMeant) continue;
    int64_t taker = e;
    for (int64_t other = 0; other < report.experts(); other++)
      if (report.confusion(e, other) > report.confusion(e, taker)) taker = other;
    if (taker == e) continue;
    found.push_back(
        {"wrong_expert",
         {e, taker},
         {},
         fmt::format("Texts meant for {} go to {}: {} of their tokens choose it first, and {} the "
                     "expert they are meant for. {}",
                     report.describe(e), report.describe(taker), percent(report.confusion(e, taker)),
                     percent(report.confusion(e, e)),
                     report.has_prompts
                         ? fmt::format("Take positive_prompts for expert {} from texts like these, "
                                       "or give expert {} some of them as negative_prompts.",
                                       e, taker)
                         : "The router does not divide the subjects as the labels do.")});
  }
  return found;
}

// Better than chance, and by how much of what is left to win.
std::vector<Finding> find_weak(const RoutingReport& report) {
  constexpr double kWeak = 0.15;
  const double right = report.stats.right_share(), chance = 1.0 / static_cast<double>(report.experts());
  int64_t meant = 0;
  for (int64_t e = 0; e < report.experts(); e++) meant += report.tokens_meant(e);
  if (right < 0 || meant < kEnoughTokens || right > chance + kWeak * (1 - chance)) return {};
  return {{"weak_routing",
           {},
           {},
           fmt::format("Few tokens reach the expert that their text is meant for: {} choose it first, and "
                       "chance alone would do so with {}. Most tokens are computed by experts of other "
                       "subjects. {}",
                       percent(right), percent(chance),
                       report.has_prompts ? "Take prompts from real texts of each subject, whole sentences "
                                            "rather than single words, or another gate_mode."
                                          : "The routers do not divide the subjects as the labels do.")}};
}

// Those of most layers as they are, the others in one sentence.
void append(std::vector<Finding>& all, std::vector<Finding> found) {
  std::ranges::stable_sort(found, std::greater(),
                           [](const Finding& finding) { return finding.layers.size(); });
  for (size_t i = 0; i < std::min(found.size(), kMaxSentences); i++) all.push_back(found[i]);
  if (found.size() <= kMaxSentences) return;
  Finding rest = {found.front().kind, {}, {}, {}};
  for (size_t i = kMaxSentences; i < found.size(); i++)
    rest.experts.insert(rest.experts.end(), found[i].experts.begin(), found[i].experts.end());
  std::ranges::sort(rest.experts);
  rest.experts.erase(std::unique(rest.experts.begin(), rest.experts.end()), rest.experts.end());
  rest.text = fmt::format("The same is said of {} more: experts {}.", found.size() - kMaxSentences,
                          layer_ranges(rest.experts));
  all.push_back(std::move(rest));
}

}  // namespace

std::vector<Finding> diagnose(const RoutingReport& report) {
  std::vector<Finding> all;
  if (report.experts() < 2) {
    all.push_back({"one_expert",
                   {},
                   {},
                   "The mixture has one expert, which every token goes to: there is nothing to route. Add "
                   "experts, or use it as a dense model."});
    return all;
  }
  if (report.tokens() < kEnoughTokens)
    all.push_back({"few_tokens",
                   {},
                   {},
                   fmt::format("Only {} token{} counted, too few to judge (from about {} on shares mean "
                               "something): give more text with --text.",
                               report.tokens(), report.tokens() == 1 ? " was" : "s were", kEnoughTokens)});
  if (report.routing.experts_per_token == report.experts())
    all.push_back({"all_experts",
                   {},
                   {},
                   "Every token goes to all experts, since experts_per_token is their number: the router "
                   "only weighs them, and the mixture computes as much as all of them together. A smaller "
                   "experts_per_token is faster."});
  append(all, find_dead(report));
  append(all, find_greedy(report));
  append(all, find_coinciding(report));
  append(all, find_undecided(report));
  append(all, find_weak(report));
  append(all, find_wrong(report));
  std::vector<int64_t> without;
  for (int64_t e = 0; e < report.experts() && report.has_labels(); e++)
    if (is_left_out(report, e)) without.push_back(e);
  if (!without.empty())
    all.push_back({"no_text",
                   without,
                   {},
                   fmt::format("No text is meant for expert{} {}: nothing is said about {}. Add one with "
                               "--text {}=FILE.",
                               without.size() == 1 ? "" : "s", layer_ranges(without),
                               without.size() == 1 ? "it" : "them", without.front())});
  const bool complains = std::ranges::any_of(all, [](const Finding& finding) {
    return finding.kind != "few_tokens" && finding.kind != "no_text" && finding.kind != "all_experts";
  });
  if (!complains)
    all.push_back({"fine",
                   {},
                   {},
                   fmt::format("Nothing to complain about: {}routers decide, their rows differ, and no "
                               "expert {}takes over{}.",
                               report.tokens() < kEnoughTokens ? "as far as so little text shows, " : "",
                               report.tokens() < kEnoughTokens ? "" : "is idle or ",
                               report.has_labels() ? "; texts go to the expert they are meant for" : "")});
  return all;
}

}  // namespace moerge
