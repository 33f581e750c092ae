#pragma once
// Gate modes: how the rows of the routers are made. One file each; a new one adds a file and a line in
// gate.cpp.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/formats/checkpoint.h"
#include "moerge/model/prompt_encoder.h"
#include "moerge/moe/routing_stats.h"

namespace moerge {

/// Router rows, float32 [layers, experts, hidden]: those of the experts that tokens are sent to, then that of
/// a shared expert which a router of its own weighs.
struct GateTable {
  int64_t layers = 0, experts = 0, hidden = 0;
  std::vector<float> values;

  GateTable(int64_t layer_count, int64_t expert_count, int64_t hidden_size)
      : layers(layer_count),
        experts(expert_count),
        hidden(hidden_size),
        values(static_cast<size_t>(layer_count * expert_count * hidden_size)) {}

  std::span<float> rows(int64_t layer) {
    return std::span(values).subspan(static_cast<size_t>(layer * experts * hidden),
                                     static_cast<size_t>(experts * hidden));
  }
  std::span<float> row(int64_t layer, int64_t expert) {
    return std::span(values).subspan(static_cast<size_t>((layer * experts + expert) * hidden),
                                     static_cast<size_t>(hidden));
  }
  std::span<const float> row(int64_t layer, int64_t expert) const {
    return std::span(values).subspan(static_cast<size_t>((layer * experts + expert) * hidden),
                                     static_cast<size_t>(hidden));
  }
};

/// What a mode runs: nothing, a look at the base's embeddings, the base model, or the planned mixture with
/// its attention and experts, whose routers the mode replaces while it runs.
enum class GateNeeds { nothing, embeddings, base_pass, mixture_pass };

struct ExpertTokens {
  std::vector<TokenSequence> positive, negative;  // positive: prompts first, then data
  std::string model = {};                         // its name, for messages
};

struct GateInput {
  int64_t layers = 0, hidden = 0;
  std::string base;                   // its name, for messages
  std::vector<ExpertTokens> experts;  // empty lists where the mode needs nothing
  int64_t routed = 0;                 // the first so many compete for tokens, the rest are shared experts
  int64_t kept = 0;                   // experts of the base besides, whose rows stay as they are
  int64_t experts_per_token = 1;
  const StoredTensor* embedding = nullptr;  // of the base model: [vocab, hidden]
  PromptEncoder* encoder = nullptr;         // over what the mode needs
  uint64_t seed = 0;
  std::vector<std::string> stream_names;  // one random stream a layer: the router tensors' names
  int threads = 1;
};

/// Where the rows will send texts, counted while they are made.
struct Forecast {
  RoutingStats stats;
  bool held_out;  // counted on texts that the rows were not made from
};

struct Gates {
  GateTable table;
  std::optional<Forecast> forecast = {};
  double fit_seconds = 0;  // spent between the layers of the pass
};

struct GateMode {
  std::string_view name;
  std::string_view summary;
  GateNeeds needs;
  Gates (*make)(const GateInput& input);
  /// Memory that make() holds beside the table and the encoder's, in bytes; null: nothing worth counting.
  int64_t (*extra_bytes)(const GateInput& input) = nullptr;
};

std::span<const GateMode> gate_modes();
const GateMode* find_gate_mode(std::string_view name);

/// Scales a vector to unit length (vectors shorter than 1e-8 are divided by 1e-8, as mergekit does).
void normalise(std::span<float> row);

/// Experts whose rows nearly coincide, so that one of them takes the other's tokens.
struct Collision {
  int64_t first, second;        // experts
  std::vector<int64_t> layers;  // where
  double cosine;                // the largest
};

/// Pairs with a cosine above 12/13: the two rows' condition number then exceeds 5, mergekit's threshold. Only
/// the first `routed` rows of a layer compete for tokens.
std::vector<Collision> find_collisions(const GateTable& table, int64_t routed);

/// "0-3, 7": layer numbers as ranges.
std::string layer_ranges(std::span<const int64_t> layers);

}  // namespace moerge
