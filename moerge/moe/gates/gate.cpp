#include "moerge/moe/gates/gate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "moerge/moe/gates/list.h"

namespace moerge {
namespace {

// For two unit rows with cosine c the condition number is sqrt((1 + c) / (1 - c)); it is 5 at c = 12/13.
constexpr double kCollision = 12.0 / 13.0;

const std::array<GateMode, 8> kModes = {kHidden, kHiddenLast, kHiddenAvg, kRouterInput,
                                        kRidge,  kCheapEmbed, kRandom,    kUniformRandom};

}  // namespace

std::span<const GateMode> gate_modes() { return kModes; }

const GateMode* find_gate_mode(std::string_view name) {
  for (const GateMode& mode : kModes)
    if (mode.name == name) return &mode;
  return nullptr;
}

void normalise(std::span<float> row) {
  double squares = 0;
  for (const float value : row) squares += static_cast<double>(value) * value;
  const double length = std::max(std::sqrt(squares), 1e-8);
  for (float& value : row) value = static_cast<float>(value / length);
}

std::vector<Collision> find_collisions(const GateTable& table, int64_t routed) {
  std::vector<Collision> found;
  for (int64_t a = 0; a < routed; a++)
    for (int64_t b = a + 1; b < routed; b++) {
      Collision collision = {a, b, {}, 0};
      for (int64_t layer = 0; layer < table.layers; layer++) {
        double dot = 0, aa = 0, bb = 0;
        const auto x = table.row(layer, a), y = table.row(layer, b);
        for (size_t i = 0; i < x.size(); i++) {
          dot += static_cast<double>(x[i]) * y[i];
          aa += static_cast<double>(x[i]) * x[i];
          bb += static_cast<double>(y[i]) * y[i];
        }
        // Two rows of zeros coincide as well: neither is ever preferred.
        const double cosine = aa > 0 && bb > 0 ? dot / std::sqrt(aa * bb) : aa == bb ? 1.0 : 0.0;
        if (cosine <= kCollision) continue;
        collision.layers.push_back(layer);
        collision.cosine = std::max(collision.cosine, cosine);
      }
      if (!collision.layers.empty()) found.push_back(std::move(collision));
    }
  return found;
}

std::string layer_ranges(std::span<const int64_t> layers) {
  std::string out;
  for (size_t i = 0; i < layers.size();) {
    size_t end = i;
    while (end + 1 < layers.size() && layers[end + 1] == layers[end] + 1) end++;
    out += fmt::format("{}{}", out.empty() ? "" : ", ", layers[i]);
    if (end > i) out += fmt::format("-{}", layers[end]);
    i = end + 1;
  }
  return out;
}

}  // namespace moerge
