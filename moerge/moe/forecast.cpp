#include "moerge/moe/forecast.h"

#include <fmt/format.h>

#include <algorithm>

namespace moerge {
namespace {

constexpr double kIdle = 0.1, kGreedy = 2;  // of an even share
constexpr double kNoBetter = 1.5;           // times chance

std::string percent(double share) { return fmt::format("{:.0f} %", 100 * share); }

class Text {
 public:
  Text(const MoePlan& moe, const Forecast& forecast)
      : moe_(moe), stats_(forecast.stats), forecast_(forecast) {}

  std::string write() const {
    const int64_t tokens = stats_.layers.front().tokens;
    std::string out = fmt::format(
        "routing forecast, over {} tokens of {}: places go to {}\n", tokens,
        forecast_.held_out ? "data that the routers were not fitted to" : "the experts' own texts",
        each([&](int64_t e) { return percent(stats_.load(e)); }));
    out += fmt::format(
        "  the first choice is the expert that was meant for {} of the tokens ({} would be chance): {}\n",
        percent(stats_.right_share()), percent(even()),
        each([&](int64_t e) { return percent(stats_.right_share(e)); }));
    return out + "  " + verdict(tokens);
  }

 private:
  double even() const { return 1.0 / static_cast<double>(stats_.experts); }
  std::string name(int64_t e) const {
    return std::filesystem::path(moe_.models.experts[static_cast<size_t>(e)]->name).filename().string();
  }

  template <typename Say>
  std::string each(const Say& say) const {
    std::string out;
    for (int64_t e = 0; e < stats_.experts; e++)
      out += fmt::format("{}{} {}", e == 0 ? "" : ", ", name(e), say(e));
    return out;
  }

  // The worst of what there is to say.
  std::string verdict(int64_t tokens) const {
    if (tokens < kEnoughTokens) return "so few tokens say little: moerge route shows where other texts go";
    if (stats_.right_share() < kNoBetter * even())
      return "hardly better than chance: give every expert some sentences of its kind, or \"data\", and "
             "gate_mode "
             "router_input or ridge";
    for (int64_t e = 0; e < stats_.experts; e++) {
      if (stats_.load(e) < kIdle * even())
        return fmt::format("{} will hardly be used: its texts are too much like the others'", name(e));
      if (stats_.experts > 2 && stats_.load(e) > kGreedy * even() &&
          moe_.config.experts_per_token * 2 < stats_.experts)
        return fmt::format("{} takes more than twice its even share", name(e));
    }
    return "no expert is idle, and none takes more than its share";
  }

  const MoePlan& moe_;
  const RoutingStats& stats_;
  const Forecast& forecast_;
};

}  // namespace

std::string forecast_text(const MoePlan& moe) {
  const Gates& gates = moe.gates->get();
  return gates.forecast && !gates.forecast->stats.layers.empty() ? Text(moe, *gates.forecast).write() : "";
}

}  // namespace moerge
