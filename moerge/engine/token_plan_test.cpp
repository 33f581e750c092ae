#include "moerge/engine/token_plan.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace moerge {
namespace {

using Tokens = std::vector<int32_t>;

// Carries the groups out on paper: the tokens of every sequence, from memory and from the group.
struct Played {
  std::vector<Tokens> before;                         // what each reading is read after
  std::multiset<std::pair<size_t, size_t>> answered;  // query and place of its token
  size_t computed = 0, groups = 0, most_sequences = 0;
  bool kept_any = false;
};

Played play(const std::vector<TokenQuery>& queries, TokenPlanLimits limits) {
  Played out;
  TokenPlan plan(queries, limits);
  TokenGroup group;
  Tokens last;  // the last sequence of the group before
  while (plan.next(group)) {
    out.groups++;
    out.computed += group.tokens.size();
    out.most_sequences = std::max(out.most_sequences, group.kept.size());
    std::vector<Tokens> sequences;
    for (const size_t kept : group.kept) {
      EXPECT_LE(kept, last.size());
      out.kept_any = out.kept_any || kept > 0;
      sequences.emplace_back(last.begin(),
                             last.begin() + static_cast<ptrdiff_t>(std::min(kept, last.size())));
    }
    size_t reading = 0;
    for (size_t i = 0; i < group.tokens.size(); i++) {
      const TokenGroup::Token& token = group.tokens[i];
      EXPECT_LE(token.first, token.last);
      for (int32_t s = token.first; s <= token.last; s++) {
        Tokens& sequence = sequences.at(static_cast<size_t>(s));
        EXPECT_EQ(token.position, std::ssize(sequence));
        EXPECT_EQ(group.kept[static_cast<size_t>(s)], group.kept[static_cast<size_t>(token.first)]);
        sequence.push_back(token.id);
      }
      for (; reading < group.readings.size() && group.readings[reading].token == i; reading++) {
        const TokenGroup::Reading& found = group.readings[reading];
        const Tokens& asked = queries.at(found.query).tokens;
        const Tokens& read = sequences[static_cast<size_t>(token.first)];
        EXPECT_EQ(read, Tokens(asked.begin(), asked.begin() + std::ssize(read)));
        EXPECT_EQ(found.wanted, asked.at(read.size()));
        out.answered.insert({found.query, read.size()});
      }
    }
    EXPECT_EQ(reading, group.readings.size());
    last = sequences.back();
  }
  return out;
}

std::multiset<std::pair<size_t, size_t>> all_of(const std::vector<TokenQuery>& queries) {
  std::multiset<std::pair<size_t, size_t>> all;
  for (size_t i = 0; i < queries.size(); i++)
    for (size_t token = queries[i].first; token < queries[i].tokens.size(); token++) all.insert({i, token});
  return all;
}

size_t distinct_prefixes(const std::vector<TokenQuery>& queries) {
  std::set<Tokens> prefixes;
  for (const TokenQuery& query : queries)
    for (size_t size = 1; size < query.tokens.size(); size++)
      prefixes.insert(Tokens(query.tokens.begin(), query.tokens.begin() + static_cast<ptrdiff_t>(size)));
  return prefixes.size();
}

TEST(TokenPlan, ChoicesShareTheirContextAndItemsTheirExamples) {
  const std::vector<TokenQuery> queries = {{{1, 2, 3, 7, 8}, 3}, {{1, 2, 3, 7, 9}, 3}, {{1, 2, 4, 5}, 3},
                                           {{1, 2, 4, 6}, 3},    {{1, 2, 3, 7, 8}, 3}, {{1, 2}, 1}};
  const Played played = play(queries, {});
  EXPECT_EQ(played.groups, 1u);
  EXPECT_EQ(played.most_sequences, 2u);  // 1 2 3 7 and 1 2 4
  EXPECT_EQ(played.computed, 5u);
  EXPECT_EQ(played.answered, all_of(queries));
}

TEST(TokenPlan, ALongTextFillsItsLastBatch) {
  std::vector<TokenQuery> queries;
  for (int32_t choice = 0; choice < 4; choice++) {
    TokenQuery query{Tokens(20, 1), 20};
    query.tokens.insert(query.tokens.end(), {choice, 5});
    queries.push_back(query);
  }
  const Played played = play(queries, {.tokens = 8});
  EXPECT_EQ(played.computed, 24u);
  EXPECT_EQ(played.groups, 1u);  // 21 tokens of the first, room for 24
}

TEST(TokenPlan, NothingToDo) {
  TokenGroup group;
  EXPECT_FALSE(TokenPlan({}, {}).next(group));
}

TEST(TokenPlan, AnyQueriesAndLimits) {
  std::mt19937 dice(1);
  const auto up_to = [&](size_t most) { return 1 + dice() % most; };
  bool kept = false;
  for (int round = 0; round < 300; round++) {
    std::vector<TokenQuery> queries;
    const size_t count = up_to(40), letters = up_to(3), longest = up_to(12);
    for (size_t i = 0; i < count; i++) {
      TokenQuery query{Tokens(1 + up_to(longest)), 1};
      for (int32_t& token : query.tokens) token = static_cast<int32_t>(dice() % letters);
      query.first = up_to(query.tokens.size() - 1);
      queries.push_back(query);
    }
    const TokenPlanLimits limits = {.tokens = up_to(10), .sequences = up_to(4)};
    const Played played = play(queries, limits);
    EXPECT_EQ(played.answered, all_of(queries));
    EXPECT_LE(played.most_sequences, limits.sequences);
    EXPECT_EQ(played.computed, distinct_prefixes(queries));  // everything once
    kept = kept || played.kept_any;

    const Played alone = play(queries, {.tokens = limits.tokens, .sequences = 4, .share = false});
    EXPECT_EQ(alone.answered, all_of(queries));
    EXPECT_EQ(alone.most_sequences, 1u);
    EXPECT_FALSE(alone.kept_any);
    EXPECT_GE(alone.computed, played.computed);
  }
  EXPECT_TRUE(kept);
}

}  // namespace
}  // namespace moerge
