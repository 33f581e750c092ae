#include "moerge/serve/expert_shares.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "moerge/base/terminal_text.h"
#include "moerge/base/utf8.h"

namespace moerge {
namespace {

constexpr std::array<ExpertColour, kExpertColours> kColours = {{{"orange", 172},
                                                                {"violet", 93},
                                                                {"teal", 37},
                                                                {"magenta", 127},
                                                                {"lavender", 105},
                                                                {"green", 35},
                                                                {"olive", 58},
                                                                {"grey", 59}}};
constexpr int64_t kMaxRows = 16;          // of a table; the rest is summed up
constexpr int64_t kMaxInLine = 4;         // of a layer
constexpr size_t kLongestName = 11;       // "12 lavender"
constexpr size_t kLongestGivenName = 28;  // bytes

double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

int64_t sum(const std::vector<int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

Json rounded(const std::vector<double>& values) {
  Json out = Json::array();
  const double whole = sum(values);
  for (const double value : values) out.push_back(std::round(share(value, whole) * 10000) / 10000);
  return out;
}

}  // namespace

const ExpertColour& expert_colour(int64_t expert) {
  return kColours[static_cast<size_t>(std::max<int64_t>(expert, 0) % kExpertColours)];
}

std::string in_colour(int64_t expert, std::string_view text) {
  return fmt::format("\033[38;5;{}m{}\033[39m", expert_colour(expert).code, text);
}

ExpertShares::ExpertShares(int64_t experts, int64_t experts_per_token, std::vector<std::string> names)
    : experts_(std::max<int64_t>(experts, 1)),
      used_(std::max<int64_t>(experts_per_token, 1)),
      names_(std::move(names)) {
  clear();
}

void ExpertShares::clear() {
  const auto count = static_cast<size_t>(experts_);
  tokens_ = 0;
  layers_.clear();
  all_ = {std::vector<double>(count), std::vector<int64_t>(count)};
  led_.assign(count, 0);
}

void ExpertShares::add(const TokenRouting& routing) {
  const auto used = static_cast<size_t>(used_);
  if (routing.experts.empty() || routing.experts.size() % used != 0 ||
      routing.weights.size() != routing.experts.size())
    return;
  if (std::ranges::any_of(routing.experts, [&](int32_t e) { return e < 0 || e >= experts_; })) return;
  const size_t layers = routing.experts.size() / used;
  if (tokens_ > 0 && layers != layers_.size()) return;
  layers_.resize(layers, {std::vector<double>(all_.weight.size()), std::vector<int64_t>(all_.first.size())});
  for (size_t at = 0; at < routing.experts.size(); at++) {
    Sums& layer = layers_[at / used];
    const auto expert = static_cast<size_t>(routing.experts[at]);
    layer.weight[expert] += static_cast<double>(routing.weights[at]);
    all_.weight[expert] += static_cast<double>(routing.weights[at]);
    if (at % used != 0) continue;
    layer.first[expert]++;
    all_.first[expert]++;
  }
  tokens_++;
  led_[static_cast<size_t>(leading_expert(routing, experts_))]++;
}

int64_t ExpertShares::leader() const {
  return tokens_ == 0 ? -1 : std::ranges::max_element(all_.weight) - all_.weight.begin();
}

double ExpertShares::weight_share(int64_t expert) const {
  return share(all_.weight[static_cast<size_t>(expert)], sum(all_.weight));
}

double ExpertShares::first_share(int64_t expert) const {
  return share(static_cast<double>(all_.first[static_cast<size_t>(expert)]),
               static_cast<double>(sum(all_.first)));
}

std::vector<int64_t> ExpertShares::by_weight(const std::vector<double>& weights) const {
  std::vector<int64_t> order(static_cast<size_t>(experts_));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater(), [&](int64_t e) { return weights[static_cast<size_t>(e)]; });
  return order;
}

// "2 prose"; without a name of its own an expert is called by its colour.
std::string ExpertShares::label(int64_t expert, bool colour) const {
  std::string name;
  if (std::ssize(names_) == experts_) {
    name = terminal_text(names_[static_cast<size_t>(expert)]);
    std::ranges::replace_if(
        name, [](char c) { return c == '\n' || c == '\t'; }, ' ');
    if (name.size() > kLongestGivenName) {
      size_t end = kLongestGivenName;
      while (end > 0 && is_continuation(name[end])) end--;
      name.resize(end);
    }
  } else if (colour) {
    name = expert_colour(expert).name;
  }
  return name.empty() ? fmt::format("{}", expert) : fmt::format("{} {}", expert, name);
}

std::string ExpertShares::table(bool colour) const {
  if (tokens_ == 0) return "routing: of no token yet";
  size_t width = kLongestName;
  for (int64_t expert = 0; expert < experts_; expert++) width = std::max(width, label(expert, colour).size());
  std::string out = fmt::format(
      "routing of {} {} in {} {}, {} of {} experts each\n{:<{}}  {:>8}  {:>12}  {}", tokens_,
      tokens_ == 1 ? "token" : "tokens", layers(), layers() == 1 ? "layer" : "layers", used_, experts_,
      "expert", width, "weight", "first choice", colour ? "tokens of its colour" : "tokens it leads");
  std::vector<int64_t> rows(static_cast<size_t>(experts_));
  std::iota(rows.begin(), rows.end(), 0);
  if (experts_ > kMaxRows) rows = by_weight(all_.weight);
  double rest = 1;
  for (int64_t row = 0; row < std::min(experts_, kMaxRows); row++) {
    const int64_t expert = rows[static_cast<size_t>(row)];
    const std::string name = fmt::format("{:<{}}", label(expert, colour), width);
    out += fmt::format("\n{}  {:>6.1f} %  {:>10.1f} %  {}", colour ? in_colour(expert, name) : name,
                       100 * weight_share(expert), 100 * first_share(expert), led(expert));
    rest -= weight_share(expert);
  }
  if (experts_ > kMaxRows)
    out += fmt::format("\n{:<{}}  {:>6.1f} %", fmt::format("{} others", experts_ - kMaxRows), width,
                       100 * std::max(rest, 0.0));
  return out;
}

std::string ExpertShares::layer_lines(bool colour) const {
  std::string out;
  for (size_t layer = 0; layer < layers_.size(); layer++) {
    const std::vector<double>& weight = layers_[layer].weight;
    out += fmt::format("{}layer {:>3}:", layer ? "\n" : "", layer);
    const std::vector<int64_t> order = by_weight(weight);
    for (int64_t i = 0; i < std::min(experts_, kMaxInLine); i++) {
      const int64_t expert = order[static_cast<size_t>(i)];
      const double part = share(weight[static_cast<size_t>(expert)], sum(weight));
      const std::string entry = fmt::format("{} {:.0f} %", expert, 100 * part);
      out += fmt::format("{} {}", i ? "," : "", colour ? in_colour(expert, entry) : entry);
    }
  }
  return out;
}

Json ExpertShares::json() const {
  const auto firsts = [](const Sums& sums) {
    return rounded(std::vector<double>(sums.first.begin(), sums.first.end()));
  };
  Json layers = Json::array();
  for (const Sums& layer : layers_)
    layers.push_back({{"weight", rounded(layer.weight)}, {"first_choice", firsts(layer)}});
  return {{"tokens", tokens_},
          {"weight", rounded(all_.weight)},
          {"first_choice", firsts(all_)},
          {"led", led_},
          {"layers", std::move(layers)}};
}

int64_t leading_expert(const TokenRouting& routing, int64_t experts) {
  std::vector<double> weight(static_cast<size_t>(std::max<int64_t>(experts, 1)));
  for (size_t i = 0; i < std::min(routing.experts.size(), routing.weights.size()); i++)
    if (routing.experts[i] >= 0 && routing.experts[i] < experts)
      weight[static_cast<size_t>(routing.experts[i])] += static_cast<double>(routing.weights[i]);
  return std::ranges::max_element(weight) - weight.begin();
}

}  // namespace moerge
