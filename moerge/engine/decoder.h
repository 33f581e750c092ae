#pragma once
// The forward pass that routers are made and judged with, streaming: one layer's weights at a time, straight
// from the memory-mapped file, for all texts of all experts at once.

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "moerge/model/model.h"
#include "moerge/model/prompt_encoder.h"

namespace moerge {

enum class WeightType {
  as_stored,  // used where they lie in the file
  f32,        // float16 and bfloat16 ones converted, so that nothing else is rounded either; not the head
  q8_0,       // 8 bits each, a float16 scale for every 32
  q4_1,       // 4 bits each, a float16 scale and offset for every 32; closer than q4_0 and as fast to make
};

/// Throws usage, with the devices there are, when this build has none of that name.
void check_device(const std::string& name);

struct DecoderOptions {
  int threads = 0;             // 0: default_threads()
  std::string device = "cpu";  // "cpu", "gpu" (the first one) or a device's name in ggml
  /// What the matrices of the layers are computed in. They are quantised layer by layer in memory, never on
  /// disk; a matrix whose rows are no multiple of 32 stays as stored, and so do norms, biases, routers,
  /// embeddings and what is stored in a block type.
  WeightType weights = WeightType::as_stored;
  /// How many tokens pass through a layer together; bounds the memory of activations. A longer sequence is
  /// still attended to as a whole.
  int64_t max_batch_tokens = 512;
};

/// Runs decoders of all families in model/architectures/: one graph, driven by the model's configuration and
/// by the weights that its family has. Grouped-query attention, biases on its projections, norms over every
/// head of q and k, sliding windows in all layers or some, rotary embeddings of the kinds in rope.h, SiLU;
/// an FFN, or a mixture of experts (mixture.h).
///
/// Precision: states, norms, attention, routers and f32 matrices are float32; for bf16 and f16 matrices ggml
/// rounds the other factor of each product to that type (so float16 weights need activations below 65504),
/// for block types (stored ones as well) to 8 bits, and sums in float32. Where two experts of a mixture are
/// that close, a token may take the other one. The result of a sequence does not depend on the other
/// sequences beyond rounding.
///
/// Memory: the states (float32 [tokens, hidden]; twice where a router looks at them), router logits, the
/// activations of max_batch_tokens tokens, and the weights (mapped pages, or a copy where the file does not
/// hold them as they are computed with) of the attention or the FFN of one layer, of a mixture of one expert
/// at a time; besides the pages of what comes next, read ahead. Pages are given back when they have been
/// used.
class StreamingDecoder final : public PromptEncoder {
 public:
  /// `model` must outlive this object. Throws unsupported when the model needs something that this forward
  /// pass does not do, input when a weight is missing or does not fit, usage for an unknown device; reads no
  /// weight yet.
  explicit StreamingDecoder(const Model& model, DecoderOptions options = {});
  ~StreamingDecoder() override;

  /// The last layer is run only as far as a tap looks. Not for several threads at once. Throws input for a
  /// token outside the vocabulary and for states that are not finite; what the taps throw passes through.
  void encode(std::span<const TokenSequence> sequences, const PassTaps& taps) override;

  /// ln p(token | those before it) of every token but the first of each sequence, one sequence after the
  /// other; taps.leaving is called as well. Takes the logits of 64 tokens besides.
  std::vector<float> log_probabilities(std::span<const TokenSequence> sequences, PassTaps taps = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moerge
