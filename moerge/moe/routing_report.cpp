#include "moerge/moe/routing_report.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "moerge/base/error.h"
#include "moerge/model/routing.h"

namespace moerge {
namespace {

// 8 bytes each; more than any mixture there is needs by far.
constexpr int64_t kMaxConfusion = int64_t{1} << 27;

double ratio(double part, double whole) { return whole == 0 ? 0 : part / whole; }

RoutingStats make_stats(const std::string& model, const ModelConfig& config) {
  // Both factors are bounded by the configuration's reader.
  if (config.experts > kMaxConfusion / std::max<int64_t>(1, config.experts * config.layers))
    fail(ErrorKind::unsupported, "{}: {} experts in {} layers are more than a report can hold", model,
         config.experts, config.layers);
  return {config.layers, config.experts};
}

const LayerRouting& at(const RoutingReport& report, int64_t layer) {
  return report.stats.layers[static_cast<size_t>(layer)];
}

std::span<const int64_t> confusion_row(const LayerRouting& layer, int64_t experts, int64_t meant) {
  return std::span(layer.confusion)
      .subspan(static_cast<size_t>(meant * experts), static_cast<size_t>(experts));
}

double sum(std::span<const int64_t> counts) {
  return static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
}

template <typename Of>
double mean_over_layers(const RoutingReport& report, const Of& of_layer) {
  double total = 0;
  for (int64_t layer = 0; layer < report.layers(); layer++) total += of_layer(layer);
  return ratio(total, static_cast<double>(report.layers()));
}

}  // namespace

double RoutedText::perplexity() const {
  return predicted == 0 ? -1 : std::exp(-log_probability / static_cast<double>(predicted));
}

RoutingReport::RoutingReport(std::string model_name, const ModelConfig& config)
    : model(std::move(model_name)), stats(make_stats(model, config)) {
  routing.experts = config.experts;
  routing.experts_per_token = config.experts_per_token;
  routing.normalised = config.normalised;
  routing.routed_scale = config.routed_scale;
  names.resize(static_cast<size_t>(config.experts));
}

bool RoutingReport::has_labels() const {
  return std::ranges::any_of(texts, [](const RoutedText& text) { return text.meant >= 0; });
}

double RoutingReport::share(int64_t layer, int64_t expert) const {
  const LayerRouting& counts = at(*this, layer);
  return ratio(static_cast<double>(counts.chosen[static_cast<size_t>(expert)]),
               static_cast<double>(counts.tokens * routing.experts_per_token));
}

double RoutingReport::first_share(int64_t layer, int64_t expert) const {
  const LayerRouting& counts = at(*this, layer);
  return ratio(static_cast<double>(counts.first[static_cast<size_t>(expert)]),
               static_cast<double>(counts.tokens));
}

double RoutingReport::probability(int64_t layer, int64_t expert) const {
  const LayerRouting& counts = at(*this, layer);
  return ratio(counts.probability[static_cast<size_t>(expert)], static_cast<double>(counts.tokens));
}

double RoutingReport::entropy(int64_t layer) const {
  const LayerRouting& counts = at(*this, layer);
  if (experts() < 2) return 0;
  return ratio(counts.entropy, static_cast<double>(counts.tokens) * std::log(static_cast<double>(experts())));
}

double RoutingReport::right_share(int64_t layer) const {
  double total = 0;
  int64_t count = 0;
  for (int64_t expert = 0; expert < experts(); expert++) {
    const auto row = confusion_row(at(*this, layer), experts(), expert);
    const double all = sum(row);
    if (all == 0) continue;
    total += static_cast<double>(row[static_cast<size_t>(expert)]) / all;
    count++;
  }
  return count == 0 ? -1 : total / static_cast<double>(count);
}

double RoutingReport::share(int64_t expert) const {
  return mean_over_layers(*this, [&](int64_t layer) { return share(layer, expert); });
}
double RoutingReport::first_share(int64_t expert) const {
  return mean_over_layers(*this, [&](int64_t layer) { return first_share(layer, expert); });
}
double RoutingReport::probability(int64_t expert) const {
  return mean_over_layers(*this, [&](int64_t layer) { return probability(layer, expert); });
}

double RoutingReport::confusion(int64_t meant, int64_t first) const {
  return mean_over_layers(*this, [&](int64_t layer) {
    const auto row = confusion_row(at(*this, layer), experts(), meant);
    return ratio(static_cast<double>(row[static_cast<size_t>(first)]), sum(row));
  });
}

int64_t RoutingReport::tokens_meant(int64_t expert) const {
  int64_t count = 0;
  for (const RoutedText& text : texts)
    if (text.meant == expert) count += text.tokens;
  return count;
}

std::string RoutingReport::describe(int64_t expert) const {
  const std::string& name = names[static_cast<size_t>(expert)];
  return name.empty() ? fmt::format("expert {}", expert) : fmt::format("expert {} ({})", expert, name);
}

std::string RoutingReport::short_name(int64_t expert) const {
  const std::string& name = names[static_cast<size_t>(expert)];
  return name.empty() ? fmt::format("{}", expert) : fmt::format("{} {}", expert, name);
}

double full_share(const RoutingReport& report) {
  return std::min(4.0 / static_cast<double>(std::max<int64_t>(1, report.experts())),
                  1.0 / static_cast<double>(std::max<int64_t>(1, report.routing.experts_per_token)));
}

std::string percent(double share) {
  const double value = 100 * share;
  return value > 0 && value < 9.95 ? fmt::format("{:.1f} %", value) : fmt::format("{:.0f} %", value);
}

std::vector<std::vector<Choice>> choices(const RoutingReport& report, const RoutedToken& token) {
  // The layers of one token are routed as the tokens of one layer are.
  const std::vector<RoutedTokens> routes = route_tokens(token.logits, report.routing);
  std::vector<std::vector<Choice>> out(static_cast<size_t>(report.layers()));
  for (size_t expert = 0; expert < routes.size(); expert++)
    for (size_t i = 0; i < routes[expert].tokens.size(); i++)
      out[static_cast<size_t>(routes[expert].tokens[i])].push_back(
          {static_cast<int64_t>(expert), routes[expert].weights[i]});
  for (std::vector<Choice>& layer : out) std::ranges::stable_sort(layer, std::greater(), &Choice::weight);
  return out;
}

// -------- JSON

namespace {

Json number_or_null(double value) { return value < 0 ? Json(nullptr) : Json(value); }

template <typename Of>
Json of_experts(const RoutingReport& report, const Of& value) {
  Json out = Json::array();
  for (int64_t expert = 0; expert < report.experts(); expert++) out.push_back(value(expert));
  return out;
}

Json token_json(const RoutingReport& report, const RoutedToken& token) {
  Json layers = Json::array();
  const std::vector<std::vector<Choice>> chosen = choices(report, token);
  const auto width = static_cast<size_t>(report.experts());
  for (size_t layer = 0; layer < chosen.size(); layer++) {
    Json experts = Json::array(), weights = Json::array();
    for (const Choice& choice : chosen[layer]) {
      experts.push_back(choice.expert);
      weights.push_back(choice.weight);
    }
    layers.push_back(
        {{"experts", std::move(experts)},
         {"weights", std::move(weights)},
         {"logits", std::vector<float>(token.logits.begin() + static_cast<int64_t>(layer * width),
                                       token.logits.begin() + static_cast<int64_t>((layer + 1) * width))}});
  }
  return {{"id", token.id}, {"text", token.piece}, {"counted", token.counted}, {"layers", std::move(layers)}};
}

Json text_json(const RoutingReport& report, const RoutedText& text, bool per_token) {
  const double all = sum(text.first);
  Json out = {{"name", text.name},
              {"meant", text.meant < 0 ? Json(nullptr) : Json(text.meant)},
              {"documents", text.documents},
              {"tokens", text.tokens},
              {"left_out_bytes", text.left_out},
              {"perplexity", number_or_null(text.perplexity())},
              {"first_share", of_experts(report, [&](int64_t expert) {
                 return ratio(static_cast<double>(text.first[static_cast<size_t>(expert)]), all);
               })}};
  if (!per_token) return out;
  Json& tokens = out["per_token"] = Json::array();
  for (const RoutedToken& token : text.kept) tokens.push_back(token_json(report, token));
  return out;
}

Json layer_json(const RoutingReport& report, int64_t layer) {
  Json out = {
      {"layer", layer},
      {"entropy", report.entropy(layer)},
      {"share", of_experts(report, [&](int64_t e) { return report.share(layer, e); })},
      {"first_share", of_experts(report, [&](int64_t e) { return report.first_share(layer, e); })},
      {"mean_probability", of_experts(report, [&](int64_t e) { return report.probability(layer, e); })}};
  if (report.has_labels()) {
    out["right_share"] = number_or_null(report.right_share(layer));
    out["confusion"] = of_experts(report, [&](int64_t meant) {
      const auto row = confusion_row(at(report, layer), report.experts(), meant);
      return Json(std::vector<int64_t>(row.begin(), row.end()));
    });
  }
  return out;
}

}  // namespace

Json routing_json(const RoutingReport& report, bool per_token) {
  Json out = {{"model", report.model},
              {"experts_per_token", report.routing.experts_per_token},
              {"window", report.window},
              {"tokens", report.tokens()},
              {"enough_tokens", report.tokens() >= kEnoughTokens}};
  out["experts"] = of_experts(report, [&](int64_t e) {
    const std::string& name = report.names[static_cast<size_t>(e)];
    return Json{{"expert", e},
                {"name", name.empty() ? Json(nullptr) : Json(name)},
                {"share", report.share(e)},
                {"first_share", report.first_share(e)},
                {"mean_probability", report.probability(e)},
                {"tokens_meant", report.tokens_meant(e)},
                {"right_share", number_or_null(report.stats.right_share(e))}};
  });
  Json& layers = out["layers"] = Json::array();
  for (int64_t layer = 0; layer < report.layers(); layer++) layers.push_back(layer_json(report, layer));
  out["right_share"] = number_or_null(report.stats.right_share());
  out["confusion"] =
      report.has_labels()
          ? of_experts(report,
                       [&](int64_t meant) {
                         return of_experts(report, [&](int64_t e) { return report.confusion(meant, e); });
                       })
          : Json(nullptr);
  Json& texts = out["texts"] = Json::array();
  for (const RoutedText& text : report.texts) texts.push_back(text_json(report, text, per_token));
  Json& collisions = out["collisions"] = Json::array();
  for (const Collision& c : report.collisions)
    collisions.push_back({{"experts", {c.first, c.second}}, {"layers", c.layers}, {"cosine", c.cosine}});
  Json& findings = out["findings"] = Json::array();
  for (const Finding& finding : diagnose(report))
    findings.push_back({{"kind", finding.kind},
                        {"experts", finding.experts},
                        {"layers", finding.layers},
                        {"text", finding.text}});
  return out;
}

}  // namespace moerge
