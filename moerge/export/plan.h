#pragma once
// From a plan of checkpoint tensors to the tensors and metadata of a GGUF: what llama.cpp's own converter
// would make of the finished checkpoint, before a byte of it exists.

#include <string>
#include <vector>

#include "moerge/export/family.h"
#include "moerge/export/metadata.h"
#include "moerge/export/vocabulary.h"
#include "moerge/formats/gguf.h"
#include "moerge/plan/plan.h"

namespace moerge {

/// Rows of a step's output, seen as rows of the GGUF tensor's length.
struct Slice {
  const Step* step;
  int64_t first_row, rows;
};

struct ExportTensor {
  TensorSpec spec;            // GGUF's name; float32 when it stays so in every file, else bfloat16
  int64_t columns = 0;        // of a row
  int64_t rotary_heads = 0;   // > 0: rows of each head change places, see source_row()
  std::vector<Slice> slices;  // one expert each where experts are stacked, else one
  std::vector<float> values;  // of a tensor that is computed here; it has no slices

  int64_t rows() const { return spec.elements() / columns; }
  /// Where row `row` comes from: rope pairs neighbouring rows in a GGUF of this family, and rows half a head
  /// apart in the checkpoint.
  int64_t source_row(int64_t row) const;
};

struct ExportPlan {
  const Plan* plan = nullptr;
  const ExportFamily* family = nullptr;
  GgufMetadata metadata;  // everything but general.file_type
  std::vector<ExportTensor>
      tensors;  // in llama.cpp's order: outside the layers, then layer by layer, by name
  std::vector<std::string> warnings;
  ParameterCounts parameters = {};
};

/// `plan` must outlive the result. Throws unsupported and input, with every tensor that is missing, unknown
/// or of another shape than the configuration says.
ExportPlan plan_export(const ExportSource& source, const Plan& plan, const VocabularyOptions& vocabulary);

}  // namespace moerge
