#include "moerge/engine/decoder_memory.h"

#include <ggml-cpp.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "moerge/base/error.h"
#include "moerge/engine/graph.h"
#include "moerge/engine/mixture.h"
#include "moerge/engine/weight_stream.h"

namespace moerge {
namespace {

constexpr std::array kDenseFfn = {Role::ffn_norm, Role::ffn_gate, Role::ffn_up, Role::ffn_down};

bool contains(std::span<const Role> roles, Role role) {
  return std::ranges::find(roles, role) != roles.end();
}

std::vector<Role> attention_roles(const Architecture& architecture) {
  std::vector<Role> out;
  for (const WeightTemplate& weight : architecture.weights)
    if (is_per_layer(weight.role) && weight.role != Role::ignored && !contains(kDenseFfn, weight.role) &&
        !contains(mixture_layer_roles(), weight.role))
      out.push_back(weight.role);
  return out;
}

struct Tokens {
  int64_t all = 0, longest = 0;
};

// The residual stream and what the routers read, float32 [tokens, hidden] each. Of a mixture also the
// router's logits and shares, and each token's choice of experts (number and weight).
int64_t state_bytes(const ModelConfig& config, int64_t tokens) {
  const int64_t stream = 4 * tokens * config.hidden;
  if (config.experts == 0) return 2 * stream;
  return 2 * stream + tokens * (4 * config.experts + 4 + 12 * config.experts_per_token);
}

// float32 tensors of T tokens that are alive together, widths in elements:
//   attention: the input and its norm or the result (2 hidden), q and what becomes of it (2 heads *
//   head_dim),
//              k and v (2 kv_heads * head_dim); the mask in float16 and the part of it in use
//   FFN:       input, norm or result (2 hidden), gate, up and their product (3 ffn); of a mixture also the
//              batch that the expert's tokens are gathered in (hidden)
// and the other factor of a matrix product once more, in at most 2 bytes (bf16; block types take less).
int64_t activation_bytes(const ModelConfig& config, int64_t max_batch, const Tokens& tokens) {
  const int64_t queries = config.heads * config.head_dim, keys = config.kv_heads * config.head_dim;
  const int64_t chunk = std::min(tokens.all, std::max(max_batch, tokens.longest));
  const int64_t rows = std::min(tokens.longest, kQueryBlock), columns = tokens.longest + rows;
  const int64_t attention =
      chunk * (4 * (2 * config.hidden + 2 * queries + 2 * keys) + 2 * std::max(config.hidden, queries)) +
      2 * 2 * rows * columns;
  const int64_t batch = std::min(tokens.all, max_batch), ffn = std::max(config.ffn, config.shared_ffn);
  const int64_t gathered = config.experts > 0 ? config.hidden : 0;
  const int64_t feed_forward =
      batch * (4 * (2 * config.hidden + gathered + 3 * ffn) + 2 * std::max(config.hidden, ffn));
  return std::max(attention, feed_forward);
}

// The largest buffer that any part of a layer is copied to.
int64_t weight_bytes(const Model& model, WeightStream& weights) {
  const ModelConfig& config = model.config;
  const std::vector<Role> attention = attention_roles(*model.architecture);
  size_t most = 0;
  for (int64_t layer = 0; layer < config.layers; layer++) {
    most = std::max(most, weights.copied_bytes(layer, attention));
    if (config.experts == 0) {
      most = std::max(most, weights.copied_bytes(layer, kDenseFfn));
      continue;
    }
    most = std::max(most, weights.copied_bytes(layer, mixture_layer_roles()));
    for (int64_t expert = 0; expert < config.experts; expert++)
      most = std::max(most, weights.copied_bytes(layer, expert_roles(), expert));
  }
  return static_cast<int64_t>(most);
}

}  // namespace

DecoderMemory decoder_memory(const Model& model, const DecoderOptions& options,
                             std::span<const TokenSequence> sequences) {
  const ggml_backend_ptr backend(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
  if (!backend) fail(ErrorKind::io, "the CPU backend does not start");
  Tokens tokens;
  for (const TokenSequence& sequence : sequences) {
    tokens.all += std::ssize(sequence);
    tokens.longest = std::max<int64_t>(tokens.longest, std::ssize(sequence));
  }
  DecoderMemory memory;
  if (tokens.all == 0) return memory;
  memory.states = state_bytes(model.config, tokens.all);
  memory.activations = activation_bytes(model.config, std::max<int64_t>(1, options.max_batch_tokens), tokens);
  WeightStream weights(model, backend.get(), options.weights, options.threads);
  memory.weights = weight_bytes(model, weights);
  return memory;
}

}  // namespace moerge
