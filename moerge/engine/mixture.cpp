#include "moerge/engine/mixture.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "moerge/base/parallel.h"

namespace moerge {
namespace {

constexpr std::array kRouterRoles = {Role::ffn_norm, Role::router, Role::shared_router};
constexpr std::array kSharedRoles = {Role::shared_ffn_gate, Role::shared_ffn_up, Role::shared_ffn_down};
constexpr std::array kExpertRoles = {Role::ffn_gate, Role::ffn_up, Role::ffn_down};
constexpr std::array kLayerRoles = {Role::ffn_norm,        Role::router,        Role::shared_router,
                                    Role::shared_ffn_gate, Role::shared_ffn_up, Role::shared_ffn_down};

// The FFN of one layer at work.
class MixtureLayer {
 public:
  MixtureLayer(const Workbench& bench, int64_t layer, int64_t max_batch_tokens, std::span<float> states)
      : bench_(bench),
        config_(bench.model.config),
        layer_(layer),
        max_batch_(max_batch_tokens),
        hidden_(static_cast<size_t>(config_.hidden)),
        tokens_(std::ssize(states) / config_.hidden),
        states_(states) {}

  bool run() {
    read_router();
    if (!std::ranges::all_of(logits_, [](float value) { return std::isfinite(value); })) return false;
    const std::vector<RoutedTokens> routes = route_tokens(logits_, config_);
    std::vector<int64_t> chosen;
    for (int64_t expert = 0; expert < config_.experts; expert++)
      if (!routes[static_cast<size_t>(expert)].tokens.empty()) chosen.push_back(expert);

    bench_.weights.prefetch(layer_, kExpertRoles, chosen.front());
    if (config_.shared_ffn > 0) add_shared();
    for (size_t i = 0; i < chosen.size(); i++) {
      check_interrupted();
      bench_.weights.load(layer_, kExpertRoles, chosen[i]);
      if (i + 1 < chosen.size()) bench_.weights.prefetch(layer_, kExpertRoles, chosen[i + 1]);
      add(kExpertRoles, routes[static_cast<size_t>(chosen[i])]);
      bench_.weights.release();
    }
    return true;
  }

 private:
  /// Fills normed_, logits_ and shared_shares_.
  void read_router();
  void add_shared();
  /// states += weight * ffn(normed) for some tokens, with the weights of `roles` (gate, up, down).
  void add(std::span<const Role, 3> roles, const RoutedTokens& part);

  const Workbench& bench_;
  const ModelConfig& config_;
  const int64_t layer_, max_batch_;
  const size_t hidden_;
  const int64_t tokens_;
  std::span<float> states_;
  std::vector<float> normed_;         // [tokens, hidden]
  std::vector<float> logits_;         // [tokens, experts]
  std::vector<float> shared_shares_;  // [tokens]
};

void MixtureLayer::read_router() {
  const auto tokens = static_cast<size_t>(tokens_), experts = static_cast<size_t>(config_.experts);
  normed_.resize(states_.size());
  logits_.resize(tokens * experts);
  shared_shares_.assign(tokens, 1.0f);
  bench_.weights.load(layer_, kRouterRoles);
  for (size_t first = 0; first < tokens; first += static_cast<size_t>(max_batch_)) {
    check_interrupted();
    const size_t count = std::min(static_cast<size_t>(max_batch_), tokens - first);
    Graph graph(bench_, 16);
    ggml_tensor* x = graph.input(GGML_TYPE_F32, config_.hidden, static_cast<int64_t>(count));
    ggml_tensor* normed = graph.norm(x, Role::ffn_norm);
    ggml_tensor* logits = graph.project(normed, Role::router);
    ggml_tensor* shares = bench_.weights.at(Role::shared_router)
                              ? ggml_sigmoid(graph.context(), graph.project(normed, Role::shared_router))
                              : nullptr;
    for (ggml_tensor* output : {normed, logits, shares})
      if (output) graph.output(output);
    graph.allocate();
    set<float>(x, states_.subspan(first * hidden_, count * hidden_));
    graph.run();
    get(normed, std::span(normed_).subspan(first * hidden_, count * hidden_));
    get(logits, std::span(logits_).subspan(first * experts, count * experts));
    if (shares) get(shares, std::span(shared_shares_).subspan(first, count));
  }
  bench_.weights.release();
}

void MixtureLayer::add_shared() {
  RoutedTokens all = {std::vector<int64_t>(static_cast<size_t>(tokens_)), std::move(shared_shares_)};
  std::iota(all.tokens.begin(), all.tokens.end(), int64_t{0});
  bench_.weights.load(layer_, kSharedRoles);
  add(kSharedRoles, all);
  bench_.weights.release();
}

void MixtureLayer::add(std::span<const Role, 3> roles, const RoutedTokens& part) {
  const auto row = [&](auto& rows, int64_t token) {
    return std::span(rows).subspan(static_cast<size_t>(token) * hidden_, hidden_);
  };
  std::vector<float> batch;
  for (size_t first = 0; first < part.tokens.size(); first += static_cast<size_t>(max_batch_)) {
    check_interrupted();
    const size_t count = std::min(static_cast<size_t>(max_batch_), part.tokens.size() - first);
    batch.resize(count * hidden_);
    for (size_t i = 0; i < count; i++)
      std::ranges::copy(row(normed_, part.tokens[first + i]), row(batch, static_cast<int64_t>(i)).begin());
    Graph graph(bench_, 16);
    ggml_tensor* x = graph.input(GGML_TYPE_F32, config_.hidden, static_cast<int64_t>(count));
    ggml_tensor* y = graph.feed_forward(x, roles[0], roles[1], roles[2]);
    graph.output(y);
    graph.allocate();
    set<float>(x, batch);
    graph.run();
    get(y, batch);
    for (size_t i = 0; i < count; i++) {
      const std::span<float> state = row(states_, part.tokens[first + i]);
      const std::span<const float> out = row(batch, static_cast<int64_t>(i));
      for (size_t j = 0; j < hidden_; j++) state[j] += part.weights[first + i] * out[j];
    }
  }
}

}  // namespace

std::vector<RoutedTokens> route_tokens(std::span<const float> logits, const ModelConfig& config) {
  const auto experts = static_cast<size_t>(config.experts);
  const auto chosen = static_cast<std::ptrdiff_t>(config.experts_per_token);
  std::vector<RoutedTokens> out(experts);
  std::vector<float> shares(experts);
  std::vector<size_t> order(experts);
  for (size_t token = 0; token * experts < logits.size(); token++) {
    const std::span<const float> row = logits.subspan(token * experts, experts);
    const float largest = *std::ranges::max_element(row);
    float sum = 0;
    for (size_t i = 0; i < experts; i++) {
      shares[i] = std::exp(row[i] - largest);
      sum += shares[i];
    }
    for (float& share : shares) share /= sum;
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::partial_sort(order, order.begin() + chosen, [&](size_t a, size_t b) {
      return shares[a] != shares[b] ? shares[a] > shares[b] : a < b;
    });
    const std::span<const size_t> picks(order.begin(), order.begin() + chosen);
    float total = 0;
    for (const size_t expert : picks) total += shares[expert];
    const float scale = static_cast<float>(config.routed_scale) / (config.normalised ? total : 1.0f);
    for (const size_t expert : picks) {
      out[expert].tokens.push_back(static_cast<int64_t>(token));
      out[expert].weights.push_back(shares[expert] * scale);
    }
  }
  return out;
}

std::span<const Role> mixture_layer_roles() { return kLayerRoles; }
std::span<const Role> expert_roles() { return kExpertRoles; }

bool add_mixture(const Workbench& bench, int64_t layer, int64_t max_batch_tokens, std::span<float> states) {
  return MixtureLayer(bench, layer, max_batch_tokens, states).run();
}

}  // namespace moerge
