#pragma once
// Importance matrices as files ("imatrix"), and as what a quantiser weighs its errors with.
//
// Two formats, both of llama.cpp's tools/imatrix:
//   GGUF    "general.type" is "imatrix"; "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"; for
//   each
//           tensor of the model float32 tensors NAME.in_sum2 [matrices, columns] and NAME.counts [matrices]:
//           sums of squared inputs, and how many rows each is a sum of.
//   legacy  (".dat"), little-endian: int32 number of entries; each: int32 length and bytes of the name, int32
//           calls, int32 number of values, float32 values, which are means times calls. Then, in newer files,
//           int32 chunks, and int32 length and bytes of the dataset's name.

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "moerge/engine/imatrix.h"

namespace moerge {

/// The mean square of what each column of a tensor is multiplied with.
struct Importance {
  std::string where;                                  // the file, for messages
  std::map<std::string, std::vector<float>> tensors;  // GGUF tensor name -> [experts * columns]
  /// By tensor name, the experts that saw no token. Their means are all 1: every column matters the same.
  std::map<std::string, std::vector<int64_t>> unseen;
  std::vector<std::string> datasets;  // what it was computed from
  int64_t chunks = 0;                 // 0 where the file does not say
  int64_t chunk_size = 0;             // tokens; 0 where the file does not say

  /// The means of a tensor of that many experts (1 for any other tensor) and columns; empty when the file has
  /// none for it. Throws usage when it has another number: then it belongs to another model.
  std::span<const float> means(const std::string& tensor, int64_t experts, int64_t columns) const;
};

/// Reads either format; the means are bit for bit those that llama.cpp's quantize tool computes. Every value
/// is finite and not negative. Throws input for everything else.
Importance read_importance(const std::filesystem::path& file);

/// What read_importance() finds in the file that write_importance() makes of it.
Importance to_importance(const Imatrix& imatrix, std::vector<std::string> datasets);

/// Writes the GGUF format, byte for byte as llama.cpp does. The file appears whole or not at all, and
/// replaces what bears its name.
void write_importance(const std::filesystem::path& file, const Imatrix& imatrix,
                      const std::vector<std::string>& datasets);

}  // namespace moerge
