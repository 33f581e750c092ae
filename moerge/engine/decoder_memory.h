#pragma once
// What StreamingDecoder takes of memory, before it takes it.

#include <cstdint>
#include <span>

#include "moerge/engine/decoder.h"

namespace moerge {

/// Bytes; pages of the mapped files come on top, which the kernel takes back when it wants them.
struct DecoderMemory {
  int64_t states = 0;       // what every token's layer begins with
  int64_t activations = 0;  // inside a layer, of some tokens at a time
  int64_t weights = 0;      // of a layer's part, where they are not computed with as they lie in the file
  int64_t total() const { return states + activations + weights; }
};

/// An upper bound for encode() of these sequences on the CPU, with a tap that looks at the routers; reads no weights. `model` as the decoder takes
/// it.
DecoderMemory decoder_memory(const Model& model, const DecoderOptions& options,
                             std::span<const TokenSequence> sequences);

}  // namespace moerge
