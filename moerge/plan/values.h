#pragma once
// The values that a plan gives a tensor, for writers that do not want its bytes.

#include <optional>
#include <span>

#include "moerge/plan/plan.h"

namespace moerge {

/// Adds a part's noise and multiplies by its scale: `values` are its elements from `first` on. Rounded after
/// each to the source's type, which is what PyTorch tensors of that type do; block types have no rounding of
/// single values, there float32 stays.
void change_values(const Part& part, uint64_t seed, int64_t first, std::span<float> values);

/// Rows [first_row, ...) of a Concat step's output seen as rows of `columns` values, as many as `values`
/// holds: what the checkpoint would hold, in float32. What comes unchanged from a block-quantised source is
/// not rounded to the step's type.
void read_values(const Plan& plan, const Step& step, int64_t columns, int64_t first_row,
                 std::span<float> values);

/// Rows of a step's output, as a reader wants them.
struct RowRange {
  int64_t columns, first_row, rows;
  int64_t rotary_heads = 0;  // > 0: in GGUF's order of rotary rows, for this many heads; whole heads then
};

/// The source's own bytes of those rows, when the step passes them on unchanged and they lie in one piece and
/// in the wanted order in a source of type `dtype`; null else.
struct StoredRows {
  const MappedFile* file;
  int64_t offset;
};
std::optional<StoredRows> find_stored_rows(const Step& step, DType dtype, const RowRange& range);

}  // namespace moerge
