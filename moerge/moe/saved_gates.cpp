#include "moerge/moe/saved_gates.h"

#include <cstring>

#include "moerge/base/error.h"
#include "moerge/base/json.h"

namespace moerge {
namespace {

Json layer_json(const LayerRouting& layer) {
  return {{"tokens", layer.tokens},   {"chosen", layer.chosen},           {"first", layer.first},
          {"entropy", layer.entropy}, {"probability", layer.probability}, {"confusion", layer.confusion}};
}

LayerRouting layer_from(const Json& json, int64_t experts) {
  LayerRouting layer(experts);
  const auto read = [&](const char* key, auto& values) {
    auto found = json.at(key).get<std::remove_reference_t<decltype(values)>>();
    if (found.size() != values.size()) fail(ErrorKind::input, "{}: {} values", key, found.size());
    values = std::move(found);
  };
  layer.tokens = json.at("tokens").get<int64_t>();
  layer.entropy = json.at("entropy").get<double>();
  read("chosen", layer.chosen);
  read("first", layer.first);
  read("probability", layer.probability);
  read("confusion", layer.confusion);
  return layer;
}

}  // namespace

std::string pack_gates(const Gates& gates) {
  Json head = {{"layers", gates.table.layers},
               {"experts", gates.table.experts},
               {"hidden", gates.table.hidden},
               {"fit_seconds", gates.fit_seconds},
               {"forecast", nullptr}};
  if (gates.forecast) {
    Json layers = Json::array();
    for (const LayerRouting& layer : gates.forecast->stats.layers) layers.push_back(layer_json(layer));
    head["forecast"] = {{"held_out", gates.forecast->held_out},
                        {"experts", gates.forecast->stats.experts},
                        {"layers", std::move(layers)}};
  }
  std::string out = head.dump() + "\n";
  const auto values = std::as_bytes(std::span(gates.table.values));
  out.append(reinterpret_cast<const char*>(values.data()), values.size());
  return out;
}

std::optional<Gates> unpack_gates(std::string_view bytes, const GateInput& input) {
  const size_t line = bytes.find('\n');
  if (line == std::string_view::npos) return std::nullopt;
  try {
    const Json head = parse_json(bytes.substr(0, line), "saved routers");
    const auto experts = std::ssize(input.experts);
    if (head.at("layers") != input.layers || head.at("experts") != experts ||
        head.at("hidden") != input.hidden)
      return std::nullopt;
    Gates gates{GateTable(input.layers, experts, input.hidden)};
    const auto values = std::as_writable_bytes(std::span(gates.table.values));
    if (bytes.size() - line - 1 != values.size()) return std::nullopt;
    std::memcpy(values.data(), bytes.data() + line + 1, values.size());
    gates.fit_seconds = head.at("fit_seconds").get<double>();
    if (const Json& forecast = head.at("forecast"); !forecast.is_null()) {
      const auto routed = forecast.at("experts").get<int64_t>();
      if (routed < 1 || routed > 2 * (experts + input.kept)) return std::nullopt;
      RoutingStats stats(0, routed);
      for (const Json& layer : forecast.at("layers")) stats.layers.push_back(layer_from(layer, routed));
      gates.forecast = Forecast{std::move(stats), forecast.at("held_out").get<bool>()};
    }
    return gates;
  } catch (const Error&) {
    return std::nullopt;
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

}  // namespace moerge
