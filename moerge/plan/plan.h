#pragma once
// What will be written, settled before the first byte: independent steps, one per output tensor.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "moerge/formats/checkpoint.h"
#include "moerge/tensor/tensor.h"

namespace moerge {

/// One stored tensor on its way into an output tensor, its rows in the model's order. Arithmetic happens in
/// float32 and is rounded to the source's type (unless that is a block type), then converted to the output's,
/// as PyTorch does with a tensor of that type.
struct Part {
  const StoredTensor* source;
  int64_t group = -1;         // the planner's own numbering of where parts come from, for its reports
  std::string noise_stream;   // names the random stream of its noise
  double noise_scale = 0;     // adds normal noise of this standard deviation
  double residual_scale = 1;  // then multiplies

  bool changes_values() const { return noise_scale != 0 || residual_scale != 1; }
  /// An output of this type holds the source's bytes as the file has them.
  bool is_copied(DType out) const {
    return source->is_plain() && source->spec.dtype == out && !changes_values();
  }
};

/// The output's bytes are its parts one after the other: one part copies a tensor, several stack them along
/// dimension 0.
struct Concat {
  std::vector<Part> parts;
};

/// The output's values are computed by a function, float32, row-major. Called once, possibly from another
/// thread.
struct Fill {
  std::string description;
  std::function<std::vector<float>()> compute;
};

struct Step {
  TensorSpec out;
  std::variant<Concat, Fill> how;
};

struct PlanTotals {
  int64_t tensors = 0, bytes = 0;
  int64_t copied = 0;     // bytes of the output that are copied as they are
  int64_t converted = 0;  // bytes of the output that change dtype or value on the way
  int64_t computed = 0;   // bytes of the output that no source holds
};

struct Plan {
  uint64_t seed = 0;  // of every random stream
  std::vector<Step> steps;

  PlanTotals totals() const;
  std::vector<TensorSpec> specs() const;
};

/// "FOLDER: TENSOR + FOLDER: TENSOR (float32) x 0.5", what a step is made of.
std::string describe_sources(const Step& step);
/// "NAME  bfloat16 [4096, 14336]  <- SOURCES", one line.
std::string describe(const Step& step);

}  // namespace moerge
