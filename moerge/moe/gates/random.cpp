// Routers that are to be trained: standard normal values, or uniform ones in +-1/sqrt(hidden).

#include "moerge/base/random.h"

#include <cmath>

#include "moerge/moe/gates/list.h"

namespace moerge {
namespace {

template <typename Sample>
Gates fill(const GateInput& input, Sample sample) {
  GateTable table(input.layers, std::ssize(input.experts), input.hidden);
  const size_t size = static_cast<size_t>(table.experts * table.hidden);
  for (int64_t layer = 0; layer < table.layers; layer++) {
    const RandomStream stream(input.seed, input.stream_names[static_cast<size_t>(layer)]);
    float* values = table.row(layer, 0).data();
    for (size_t i = 0; i < size; i++) values[i] = sample(stream, i);
  }
  return {std::move(table)};
}

Gates normal(const GateInput& input) {
  return fill(input, [](const RandomStream& stream, size_t i) { return stream.normal(i); });
}

Gates uniform(const GateInput& input) {
  const float bound = 1.0f / std::sqrt(static_cast<float>(input.hidden));
  return fill(input,
              [bound](const RandomStream& stream, size_t i) { return (2 * stream.uniform(i) - 1) * bound; });
}

}  // namespace

const GateMode kRandom = {"random", "normal noise, for routers that will be trained; needs no prompts",
                          GateNeeds::nothing, normal};
const GateMode kUniformRandom = {"uniform_random", "uniform noise in +-1/sqrt(hidden size); needs no prompts",
                                 GateNeeds::nothing, uniform};

}  // namespace moerge
