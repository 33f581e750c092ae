#pragma once
// What `moerge route` found out about a mixture: where its routers send the tokens of some texts, how well
// the mixture predicts them, and what is wrong with it. Data, then four ways to say it.

#include <cstdint>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/model/config.h"
#include "moerge/moe/gates/gate.h"
#include "moerge/moe/routing_stats.h"

namespace moerge {

/// A token that is shown on its own.
struct RoutedToken {
  int32_t id = 0;
  std::string piece;               // of the text; empty where a later token completes a character
  bool counted = true;             // false: the beginning-of-sequence token in front of a window
  std::vector<float> logits = {};  // [layers, experts]
};

struct RoutedText {
  std::string name;                 // as messages call it: a file, or the beginning of a prompt
  int64_t meant = -1;               // the expert it is meant for, -1: nobody said
  int64_t documents = 1;            // with tokens that were read
  int64_t tokens = 0;               // counted
  int64_t left_out = 0;             // bytes beyond --max-tokens, about
  double log_probability = 0;       // ln p of its tokens, summed
  int64_t predicted = 0;            // over so many
  std::vector<int64_t> first = {};  // [experts]: first choices, summed over layers
  std::vector<RoutedToken> kept = {};

  /// exp of the mean of -ln p; -1 where nothing was predicted.
  double perplexity() const;
};

struct RoutingReport {
  std::string model;               // as the user named it
  std::string note;                // where the texts come from, when nobody named them; may be empty
  std::vector<std::string> names;  // of the experts; empty where none is known
  ModelConfig routing;             // of the mixture: experts, experts_per_token, normalised, routed_scale
  RoutingStats stats;              // over the counted tokens
  std::vector<RoutedText> texts;
  std::vector<Collision> collisions;
  int64_t window = 0;        // tokens that see each other
  bool has_prompts = false;  // its routers come from prompts that the user can change

  RoutingReport(std::string model_name, const ModelConfig& config);

  int64_t experts() const { return stats.experts; }
  int64_t layers() const { return std::ssize(stats.layers); }
  int64_t tokens() const { return stats.layers.empty() ? 0 : stats.layers.front().tokens; }
  bool has_labels() const;

  // Shares of one layer, 0 to 1; 0 without tokens.
  double share(int64_t layer, int64_t expert) const;        // of the chosen places
  double first_share(int64_t layer, int64_t expert) const;  // of the tokens: it is their first choice
  double probability(int64_t layer, int64_t expert) const;  // mean
  double entropy(int64_t layer) const;                      // of the largest possible, ln experts
  /// Mean over the experts that texts are meant for; -1 without such.
  double right_share(int64_t layer) const;
  // Means over layers.
  double share(int64_t expert) const;
  double first_share(int64_t expert) const;
  double probability(int64_t expert) const;
  /// Of the tokens meant for one expert, the share whose first choice is another; 0 without such.
  double confusion(int64_t meant, int64_t first) const;
  int64_t tokens_meant(int64_t expert) const;

  /// "expert 1 (maths)", "1 maths".
  std::string describe(int64_t expert) const;
  std::string short_name(int64_t expert) const;
};

/// Which share fills a bar or a colour: four times an even one, or an expert that all tokens go to.
double full_share(const RoutingReport& report);
/// "31 %", "0.4 %".
std::string percent(double share);
/// Expert and weight of a token in each layer, the largest weight first.
struct Choice {
  int64_t expert;
  float weight;
};
std::vector<std::vector<Choice>> choices(const RoutingReport& report, const RoutedToken& token);

/// One thing that a user should know: what it means and what to change.
struct Finding {
  std::string kind;  // "dead_expert", ...: docs/routing.md has the list
  std::vector<int64_t> experts, layers;
  std::string text;
};
/// Never empty: kind "fine" when there is nothing to complain about.
std::vector<Finding> diagnose(const RoutingReport& report);

struct TextStyle {
  bool bars = false;     // block characters besides numbers
  bool colours = false;  // escape sequences
};
/// For a terminal of 100 columns. Names are not escaped yet: printable() of base/progress.h would take the
/// colours with them, so each is escaped on its own.
std::string routing_text(const RoutingReport& report, const TextStyle& style);

/// For scripts; stable, see docs/routing.md. `per_token`: every kept token.
Json routing_json(const RoutingReport& report, bool per_token);

/// One page of HTML that needs nothing else.
std::string routing_page(const RoutingReport& report);
/// Whether a file begins like such a page.
bool is_routing_page(std::string_view beginning);

}  // namespace moerge
