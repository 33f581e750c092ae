#pragma once
// In which order a model reads texts that begin alike, so that what they have in common is computed once.

#include <cstdint>
#include <span>
#include <vector>

namespace moerge {

/// Asks for ln p of tokens[first] and of each after it, given all tokens before it.
struct TokenQuery {
  std::vector<int32_t> tokens;
  size_t first = 1;  // 1 to tokens.size() - 1
};

/// Tokens that are computed together. They are a tree: what sequences have in common is there once. The
/// sequences are the ways to its leaves, from left to right, so that a token belongs to neighbouring ones.
struct TokenGroup {
  struct Token {
    int32_t id;
    int32_t position;     // in its sequences
    int32_t first, last;  // of these sequences
  };
  /// ln p of `wanted` after a token.
  struct Reading {
    size_t token;  // in `tokens`
    size_t query;
    int32_t wanted;
  };
  /// By sequence: how many of its tokens are those of the last sequence of the group before; they are not
  /// computed again.
  std::vector<size_t> kept;
  std::vector<Token> tokens;      // each after the one before it in its sequences
  std::vector<Reading> readings;  // in the order of tokens
};

struct TokenPlanLimits {
  /// Of a group; one with a longer sequence has up to the next multiple.
  size_t tokens = 512;
  size_t sequences = 32;
  /// Without it there is one sequence to a group and nothing is kept: for models whose state cannot be
  /// taken back to an earlier token.
  bool share = true;
};

/// Groups, one after the other. Every reading is in the group that computes its token, also where the rest of
/// the query's tokens comes in a later one.
class TokenPlan {
 public:
  /// `queries` must outlive the plan.
  TokenPlan(std::span<const TokenQuery> queries, TokenPlanLimits limits);

  /// False at the end.
  bool next(TokenGroup& group);

 private:
  const TokenQuery& query(size_t place) const { return queries_[order_[place]]; }
  // The last token is only asked for, never read.
  size_t length(size_t place) const { return query(place).tokens.size() - 1; }
  bool add(TokenGroup& group, size_t& capacity);
  void read(TokenGroup& group, size_t place, size_t end) const;

  std::span<const TokenQuery> queries_;
  TokenPlanLimits limits_;
  std::vector<size_t> order_;       // by their tokens
  std::vector<size_t> common_;      // by place in that order: how many tokens are those of the place before
  std::vector<size_t> first_wish_;  // by place: the least TokenQuery::first from there on
  size_t place_ = 0;
  std::vector<size_t> path_;  // by position: where the tokens of the last query are in the group, or kKept
};

}  // namespace moerge
