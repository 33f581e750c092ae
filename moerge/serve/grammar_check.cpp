#include "moerge/serve/grammar_check.h"

#include <llama-grammar.h>

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

namespace moerge {
namespace {

constexpr int kMaxRules = 20000;  // that are looked at for one place; more is beyond any limit

class Ways {
 public:
  Ways(const llama_grammar_rules& rules, size_t limit) : rules_(rules), limit_(limit) {
    nullable_.resize(rules.size());
    uses_.resize(rules.size());
    for (uint32_t rule = 0; rule < rules.size(); rule++)
      for (size_t at = 0; at < rules[rule].size(); at++)
        if (rules[rule][at].type == LLAMA_GRETYPE_RULE_REF)
          uses_[rules[rule][at].value].push_back({rule, at});
    for (bool grew = true; grew;) {
      grew = false;
      for (size_t rule = 0; rule < rules.size(); rule++)
        if (!nullable_[rule] && can_be_empty(rules[rule])) grew = nullable_[rule] = true;
    }
  }

  size_t most() {
    size_t most = 0;
    for (uint32_t rule = 0; rule < rules_.size(); rule++)
      for (size_t at = 0; at < rules_[rule].size(); at++)
        if (begins_character(rules_[rule][at])) most = std::max(most, after(rule, at));
    return std::min(most, limit_);
  }

 private:
  using Place = std::pair<uint32_t, size_t>;  // rule, element

  static bool begins_character(const llama_grammar_element& element) {
    return element.type == LLAMA_GRETYPE_CHAR || element.type == LLAMA_GRETYPE_CHAR_NOT ||
           element.type == LLAMA_GRETYPE_CHAR_ANY || element.type == LLAMA_GRETYPE_TOKEN ||
           element.type == LLAMA_GRETYPE_TOKEN_NOT;
  }
  static bool ends(const llama_grammar_element& element) {
    return element.type == LLAMA_GRETYPE_END || element.type == LLAMA_GRETYPE_ALT;
  }

  bool can_be_empty(const llama_grammar_rule& rule) const {
    bool empty = true;
    for (const llama_grammar_element& element : rule) {
      if (ends(element)) {
        if (empty) return true;
        empty = true;
      } else {
        empty = empty && element.type == LLAMA_GRETYPE_RULE_REF && nullable_[element.value];
      }
    }
    return false;
  }

  // The ways from the character at this place to the next.
  size_t after(uint32_t rule, size_t at) {
    visited_ = 0;
    size_t next = at + 1;
    while (!ends(rules_[rule][next]) && !begins_character(rules_[rule][next]) &&
           rules_[rule][next].type != LLAMA_GRETYPE_RULE_REF)
      next++;  // the rest of a character's range
    return from(rule, next, true);
  }

  // `up`: at the end of the rule it goes on where the rule is used; of several places the widest counts.
  size_t from(uint32_t rule, size_t at, bool up) {
    size_t ways = 0;
    for (; ways < limit_; at++) {
      const llama_grammar_element& element = rules_[rule][at];
      if (ends(element)) return ways + (up ? above(rule) : 0);
      if (element.type != LLAMA_GRETYPE_RULE_REF) return ways + 1;
      ways += below(element.value);
      if (!nullable_[element.value]) return ways;
    }
    return limit_;
  }

  size_t below(uint32_t rule) {
    if (std::ranges::count(entered_, rule) > 0) return 0;  // the same ways again
    if (++visited_ > kMaxRules) return limit_;
    entered_.push_back(rule);
    size_t ways = 0;
    for (size_t at = 0; at < rules_[rule].size() && ways < limit_; at++)
      if (at == 0 || rules_[rule][at - 1].type == LLAMA_GRETYPE_ALT) ways += from(rule, at, false);
    entered_.pop_back();
    return std::min(ways, limit_);
  }

  size_t above(uint32_t rule) {
    if (std::ranges::count(left_, rule) > 0) return 0;
    if (++visited_ > kMaxRules) return limit_;
    left_.push_back(rule);
    size_t widest = 0;
    for (const auto& [user, at] : uses_[rule]) widest = std::max(widest, from(user, at + 1, true));
    left_.pop_back();
    return widest;
  }

  const llama_grammar_rules& rules_;
  size_t limit_;
  std::vector<bool> nullable_;
  std::vector<std::vector<Place>> uses_;  // of each rule
  std::vector<uint32_t> entered_, left_;
  int visited_ = 0;
};

}  // namespace

size_t open_ways(const std::string& grammar, size_t limit) {
  llama_grammar_parser parser(nullptr);
  try {
    if (!parser.parse(grammar.c_str())) return 0;
  } catch (const std::exception&) {
    return 0;
  }
  for (const llama_grammar_rule& rule : parser.rules) {
    if (rule.empty()) return 0;  // it is used and nowhere said
    for (const llama_grammar_element& element : rule)
      if (element.type == LLAMA_GRETYPE_RULE_REF && element.value >= parser.rules.size()) return 0;
  }
  return Ways(parser.rules, limit).most();
}

}  // namespace moerge
