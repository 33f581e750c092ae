#include "moerge/eval/routing.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

namespace moerge {
namespace {

constexpr size_t kMaxLayers = 10'000, kMaxExperts = 100'000;
constexpr int64_t kMaxTokens = int64_t{1} << 50;
constexpr size_t kListed = 4;

int64_t choices(const ExpertLoad& load) {
  return std::accumulate(load.tokens.begin(), load.tokens.end(), int64_t{0});
}

std::vector<ExpertLoad> combine(std::span<const ExpertLoad> a, std::span<const ExpertLoad> b, int64_t sign) {
  std::map<int64_t, std::vector<int64_t>> layers;
  for (const ExpertLoad& load : a) layers[load.layer] = load.tokens;
  for (const ExpertLoad& load : b) {
    std::vector<int64_t>& tokens = layers[load.layer];
    tokens.resize(std::max(tokens.size(), load.tokens.size()));
    for (size_t expert = 0; expert < load.tokens.size(); expert++)
      tokens[expert] += sign * load.tokens[expert];
  }
  std::vector<ExpertLoad> out;
  for (auto& [layer, tokens] : layers) out.push_back({layer, std::move(tokens)});
  return out;
}

}  // namespace

int64_t TaskRouting::experts() const {
  size_t most = 0;
  for (const ExpertLoad& load : layers) most = std::max(most, load.tokens.size());
  return static_cast<int64_t>(most);
}

std::vector<ExpertLoad> sum(std::span<const ExpertLoad> a, std::span<const ExpertLoad> b) {
  return combine(a, b, 1);
}

std::vector<ExpertLoad> difference(std::span<const ExpertLoad> after, std::span<const ExpertLoad> before) {
  return combine(after, before, -1);
}

std::vector<double> expert_shares(const TaskRouting& routing) {
  std::vector<double> shares(static_cast<size_t>(routing.experts()));
  int64_t layers = 0;
  for (const ExpertLoad& load : routing.layers) {
    const auto all = static_cast<double>(choices(load));
    if (all <= 0) continue;
    layers++;
    for (size_t expert = 0; expert < load.tokens.size(); expert++)
      shares[expert] += 100 * static_cast<double>(load.tokens[expert]) / all;
  }
  for (double& share : shares) share /= static_cast<double>(std::max<int64_t>(layers, 1));
  return shares;
}

std::string expert_label(int64_t expert, std::span<const std::string> names) {
  const bool named = expert >= 0 && expert < std::ssize(names) && !names[static_cast<size_t>(expert)].empty();
  return named ? fmt::format("{} {}", expert, names[static_cast<size_t>(expert)]) : fmt::format("{}", expert);
}

std::string most_chosen(const TaskRouting& routing, std::span<const std::string> names) {
  const std::vector<double> shares = expert_shares(routing);
  std::vector<size_t> order(shares.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::greater(), [&](size_t expert) { return shares[expert]; });
  std::string out;
  for (size_t i = 0; i < std::min(kListed, order.size()); i++)
    out += fmt::format("{}{} ({:.1f})", i ? ", " : "", expert_label(static_cast<int64_t>(order[i]), names),
                       shares[order[i]]);
  return out;
}

int64_t never_chosen(const TaskRouting& routing) {
  int64_t never = 0;
  for (const ExpertLoad& load : routing.layers)
    if (choices(load) > 0) never += std::ranges::count(load.tokens, 0);
  return never;
}

Json routing_json(const TaskRouting& routing) {
  Json layers = Json::array();
  for (const ExpertLoad& load : routing.layers)
    layers.push_back({{"layer", load.layer}, {"tokens", load.tokens}});
  return {{"items", routing.items}, {"layers", std::move(layers)}};
}

std::optional<TaskRouting> parse_routing(const Json& json) {
  TaskRouting out;
  const auto count = [](const Json& value) {
    const auto number = value.get<int64_t>();
    if (!value.is_number_integer() || number < 0 || number > kMaxTokens)
      throw Json::other_error::create(501, "no count", &value);
    return number;
  };
  try {
    out.items = count(json.at("items"));
    const Json& layers = json.at("layers");
    if (!layers.is_array() || layers.empty() || layers.size() > kMaxLayers) return {};
    for (const Json& layer : layers) {
      ExpertLoad load = {.layer = count(layer.at("layer")), .tokens = {}};
      if (!layer.at("tokens").is_array() || layer.at("tokens").size() > kMaxExperts) return {};
      for (const Json& tokens : layer.at("tokens")) load.tokens.push_back(count(tokens));
      out.layers.push_back(std::move(load));
    }
  } catch (const Json::exception&) {
    return {};
  }
  return out.experts() > 0 ? std::optional(out) : std::nullopt;
}

}  // namespace moerge
