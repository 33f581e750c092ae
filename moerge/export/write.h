#pragma once
// GGUF files of several types from one reading of the weights.

#include <filesystem>
#include <functional>
#include <optional>

#include "moerge/base/progress.h"
#include "moerge/engine/tensor_types.h"
#include "moerge/export/file_types.h"
#include "moerge/export/importance.h"
#include "moerge/export/plan.h"

namespace moerge {

struct ExportOptions {
  std::optional<DType> output_type = {}, embedding_type = {};
  std::vector<std::pair<std::string, DType>> overrides = {};  // regular expression over names, type
  const Importance* importance = nullptr;
  int64_t max_part_bytes = 0;  // 0: one file
  BlockSharing sharing = {};
};

/// A file to write: its type, and where each tensor goes.
struct OutputFile {
  struct Part {
    std::filesystem::path path;
    size_t first = 0, count = 0;  // tensors
    GgufLayout layout;
  };
  const FileType* type = nullptr;
  std::vector<TensorSpec> specs;  // of ExportPlan::tensors, with their final types
  std::vector<Part> parts;
  std::vector<std::string> warnings;

  int64_t shared = 0;  // bytes in whole blocks that it will have in common with its sources

  int64_t bytes() const;
};

/// Settles types and offsets; nothing is written. `path`: of the whole file; parts add "-00001-of-00003"
/// before ".gguf". Where blocks can be shared and lie alike for a tenth of the file at least, a key
/// "moerge.padding" moves the data so that they are. Throws usage when the type needs an importance matrix
/// and there is none.
OutputFile plan_output(const ExportPlan& plan, const FileType& type, const std::filesystem::path& path,
                       const ExportOptions& options);

struct WriteOptions {
  int threads = 1;
  Progress* progress = nullptr;      // counts bytes of all files
  std::function<void()> check = {};  // called before each piece of work; may throw to stop
};

/// Writes all files, each under its final name only when all of them are whole. Memory: some megabytes a
/// thread. Bytes do not depend on the number of threads. Throws input when a source changed meanwhile.
void write_outputs(const ExportPlan& plan, std::span<const OutputFile> files, const ExportOptions& options,
                   const WriteOptions& how);

}  // namespace moerge
