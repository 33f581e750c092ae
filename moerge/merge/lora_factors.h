#pragma once
// The factors of an adapter, and how close they come to what they stand for.

#include <cstdint>

#include "moerge/base/progress.h"
#include "moerge/merge/extract_lora.h"

namespace moerge {

/// Fills in the ranks, factors and norms of every module that is not stored whole. Several modules at a time,
/// as many as half of the free memory holds (a difference is float32), at least one; the same result for any
/// number of threads. Throws input, with the tensor's name, for weights that are not finite or whose factors
/// do not fit the adapter's type; config when --sv-epsilon leaves nothing.
void decompose(LoraPlan& lora, int threads, Reporter& reporter);

/// Memory that one module takes at most, the difference and its factors in float32 included.
int64_t decompose_bytes(const LoraModule& module);

/// Of all modules that have factors together: ||D - BA|| / ||D||, and the kept share of ||D||^2.
struct LoraCloseness {
  double error = 0, kept_energy = 1;
};
LoraCloseness closeness(const LoraPlan& lora);

}  // namespace moerge
