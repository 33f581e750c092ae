#include "moerge/engine/mixture.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "moerge/base/interrupt.h"
#include "moerge/model/routing.h"

namespace moerge {
namespace {

constexpr std::array kNormRoles = {Role::ffn_norm};
constexpr std::array kRouterRoles = {Role::ffn_norm, Role::router, Role::shared_router};
constexpr std::array kSharedRoles = {Role::shared_ffn_gate, Role::shared_ffn_up, Role::shared_ffn_down};
constexpr std::array kExpertRoles = {Role::ffn_gate, Role::ffn_up, Role::ffn_down};
constexpr std::array kLayerRoles = {Role::ffn_norm,        Role::router,        Role::shared_router,
                                    Role::shared_ffn_gate, Role::shared_ffn_up, Role::shared_ffn_down};

bool is_weighed_shared_expert(const Model& model) {
  return find_weight(*model.architecture, Role::shared_router) != nullptr;
}

// The FFN of one layer at work.
class MixtureLayer {
 public:
  MixtureLayer(const Workbench& bench, const MixturePass& pass, std::span<float> states)
      : bench_(bench),
        taps_(pass.taps),
        config_(bench.model.config),
        layer_(pass.layer),
        max_batch_(pass.max_batch_tokens),
        only_router_(pass.only_router),
        hidden_(static_cast<size_t>(config_.hidden)),
        tokens_(std::ssize(states) / config_.hidden),
        states_(states) {}

  bool run() {
    read_router();
    if (taps_.router)
      taps_.router({layer_, normed_, logits_,
                    is_weighed_shared_expert(bench_.model) ? std::span(shared_shares_) : std::span<float>()});
    if (!can_route()) return false;
    if (only_router_) return true;
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
  bool can_route() const;
  void add_shared();
  /// states += weight * ffn(normed) for some tokens, with the weights of `roles` (gate, up, down).
  void add(std::span<const Role, 3> roles, const RoutedTokens& part);

  const Workbench& bench_;
  const PassTaps& taps_;
  const ModelConfig& config_;
  const int64_t layer_, max_batch_;
  const bool only_router_;
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
  shared_shares_.assign(tokens,
                        taps_.replaces_routers && is_weighed_shared_expert(bench_.model) ? 0.0f : 1.0f);
  bench_.weights.load(layer_, taps_.replaces_routers ? std::span<const Role>(kNormRoles) : kRouterRoles);
  for (size_t first = 0; first < tokens; first += static_cast<size_t>(max_batch_)) {
    check_interrupted();
    const size_t count = std::min(static_cast<size_t>(max_batch_), tokens - first);
    Graph graph(bench_, 16);
    ggml_tensor* x = graph.input(GGML_TYPE_F32, config_.hidden, static_cast<int64_t>(count));
    ggml_tensor* normed = graph.norm(x, Role::ffn_norm);
    ggml_tensor* logits = taps_.replaces_routers ? nullptr : graph.project(normed, Role::router);
    ggml_tensor* shares = bench_.weights.at(Role::shared_router)
                              ? ggml_sigmoid(graph.context(), graph.project(normed, Role::shared_router))
                              : nullptr;
    for (ggml_tensor* output : {normed, logits, shares})
      if (output) graph.output(output);
    graph.allocate();
    set<float>(x, states_.subspan(first * hidden_, count * hidden_));
    graph.run();
    get(normed, std::span(normed_).subspan(first * hidden_, count * hidden_));
    if (logits) get(logits, std::span(logits_).subspan(first * experts, count * experts));
    if (shares) get(shares, std::span(shared_shares_).subspan(first, count));
  }
  bench_.weights.release();
}

// Every token has a finite logit, and none is NaN or plus infinity.
bool MixtureLayer::can_route() const {
  const auto experts = static_cast<size_t>(config_.experts);
  for (size_t first = 0; first < logits_.size(); first += experts) {
    const auto row = std::span(logits_).subspan(first, experts);
    const bool sound = std::ranges::all_of(row, [&](float value) {
      return std::isfinite(value) || (taps_.replaces_routers && value == -INFINITY);
    });
    if (!sound || !std::isfinite(std::ranges::max(row))) return false;
  }
  return std::ranges::all_of(shared_shares_, [](float value) { return std::isfinite(value); });
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

std::span<const Role> mixture_layer_roles() { return kLayerRoles; }
std::span<const Role> expert_roles() { return kExpertRoles; }

bool add_mixture(const Workbench& bench, const MixturePass& pass, std::span<float> states) {
  return MixtureLayer(bench, pass, states).run();
}

}  // namespace moerge
