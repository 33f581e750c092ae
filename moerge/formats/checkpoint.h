#pragma once
// A model folder opened for reading.

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "moerge/base/file.h"
#include "moerge/tensor/tensor.h"

namespace moerge {

/// Where a stored tensor lies.
struct StoredTensor {
  TensorSpec spec;
  const MappedFile* file;
  int64_t offset;  // from the start of the file

  TensorView view() const {
    return {spec.dtype, spec.shape,
            file->bytes().subspan(static_cast<size_t>(offset), static_cast<size_t>(spec.bytes()))};
  }
};

/// The weights of a model folder: model.safetensors, or the shards that model.safetensors.index.json names.
/// Headers are validated when it is opened, bytes are memory-mapped; immutable and safe to share between
/// threads.
class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  /// By file and offset, the order in which a disk likes to be read.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const StoredTensor* find(std::string_view name) const;
  /// As find(), but a missing tensor is an error that names the folder.
  const StoredTensor& at(std::string_view name) const;
  int64_t bytes() const;

 private:
  void add_file(const std::filesystem::path& file);

  std::filesystem::path folder_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::vector<StoredTensor> tensors_;
  std::unordered_map<std::string, size_t> by_name_;
};

}  // namespace moerge
