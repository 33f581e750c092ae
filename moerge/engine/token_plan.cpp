#include "moerge/engine/token_plan.h"

#include <algorithm>
#include <numeric>

namespace moerge {
namespace {

constexpr size_t kKept = SIZE_MAX;  // computed by an earlier group

std::span<const int32_t> read_tokens(const TokenQuery& query) {
  return std::span(query.tokens).first(query.tokens.size() - 1);
}

}  // namespace

TokenPlan::TokenPlan(std::span<const TokenQuery> queries, TokenPlanLimits limits)
    : queries_(queries), limits_(limits), order_(queries.size()), common_(queries.size()) {
  std::iota(order_.begin(), order_.end(), size_t{0});
  std::ranges::stable_sort(order_, [&](size_t a, size_t b) {
    return std::ranges::lexicographical_compare(read_tokens(queries_[a]), read_tokens(queries_[b]));
  });
  for (size_t place = 1; place < order_.size(); place++) {
    const auto before = read_tokens(query(place - 1)), here = read_tokens(query(place));
    common_[place] = static_cast<size_t>(std::ranges::mismatch(before, here).in1 - before.begin());
  }
  first_wish_.resize(queries.size());
  for (size_t place = order_.size(), least = SIZE_MAX; place-- > 0;)
    first_wish_[place] = least = std::min(least, query(place).first);
}

bool TokenPlan::next(TokenGroup& group) {
  group = {};
  if (limits_.share)
    std::ranges::fill(path_, kKept);
  else
    path_.clear();
  size_t capacity = 0;
  while (place_ < order_.size() && add(group, capacity)) place_++;
  if (limits_.share) {  // those that begin like the last one
    size_t common = path_.size();
    for (size_t place = place_; place < order_.size(); place++) {
      common = std::min(common, common_[place]);
      if (common < first_wish_[place]) break;
      read(group, place, common);
    }
  }
  std::ranges::stable_sort(group.readings, {}, &TokenGroup::Reading::token);
  return !group.tokens.empty();
}

// False when the next query does not fit into the group.
bool TokenPlan::add(TokenGroup& group, size_t& capacity) {
  const bool empty = group.kept.empty();
  const size_t common = std::min(common_[place_], path_.size()), size = length(place_);
  const bool continues = common == path_.size() && !empty;  // the last sequence
  if (empty) {
    capacity = (size - common + limits_.tokens - 1) / limits_.tokens * limits_.tokens;
  } else {
    if (group.tokens.size() + size - common > capacity) return false;
    if (!continues && (group.kept.size() == limits_.sequences || !limits_.share)) return false;
  }
  path_.resize(common);
  if (size > common) {
    if (!continues) {
      group.kept.push_back(static_cast<size_t>(std::ranges::count(path_, kKept)));
      for (const size_t token : path_)
        if (token != kKept) group.tokens[token].last++;
    }
    const auto sequence = static_cast<int32_t>(group.kept.size()) - 1;
    for (size_t i = common; i < size; i++) {
      path_.push_back(group.tokens.size());
      group.tokens.push_back({query(place_).tokens[i], static_cast<int32_t>(i), sequence, sequence});
    }
  }
  read(group, place_, size);
  return true;
}

void TokenPlan::read(TokenGroup& group, size_t place, size_t end) const {
  const TokenQuery& asked = query(place);
  for (size_t i = asked.first - 1; i < std::min(end, length(place)); i++)
    if (path_[i] != kKept) group.readings.push_back({path_[i], order_[place], asked.tokens[i + 1]});
}

}  // namespace moerge
