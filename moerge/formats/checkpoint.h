#pragma once
// A model's weights opened for reading.

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "moerge/base/file.h"
#include "moerge/formats/gguf_files.h"
#include "moerge/formats/weight_files.h"
#include "moerge/tensor/tensor.h"

namespace moerge {

struct Derivation;

/// Where a tensor's values lie, or what they are computed from.
struct StoredTensor {
  TensorSpec spec;         // of a derived tensor: what its values are rounded to
  const MappedFile* file;  // null: its values come from no file
  int64_t offset;          // from the start of the file
  /// 0: the bytes lie in the model's order. Else its rows are `rotary_heads` heads, each with the halves that
  /// rotary embeddings pair row by row: row h * d + 2j + i of the file is row h * d + i * d / 2 + j of the
  /// model, d being the rows of a head (how llama.cpp stores q and k of Llama's family).
  int64_t rotary_heads = 0;
  /// Null: the values are the file's. Else file and offset are those of its source.
  std::shared_ptr<const Derivation> derivation = nullptr;

  /// The file holds this very tensor, byte for byte.
  bool is_plain() const { return rotary_heads == 0 && !derivation; }
  int64_t rows() const { return spec.shape.empty() ? 1 : spec.shape[0]; }
  int64_t row_elements() const { return rows() == 0 ? 0 : spec.elements() / rows(); }
  int64_t row_bytes() const { return byte_size(spec.dtype, row_elements()); }

  /// The part of the file that its values come from, for reading ahead and for giving pages back.
  std::span<const std::byte> stored_bytes() const;
  void prefetch() const;
  void release() const;
  /// The model's tensor, if is_plain().
  TensorView view() const { return {spec.dtype, spec.shape, stored_bytes()}; }
};

/// Values that no file holds: computed from a stored tensor whenever somebody reads them.
struct Derivation {
  StoredTensor source;
  std::string how;  // after the source's name in a plan: " + adapter/lora.safetensors"
  /// Rows [first, first + count) in float32, in the model's order; from any thread.
  std::function<void(int64_t first, int64_t count, std::span<float> values)> compute;
  std::vector<StoredTensor> beside = {};  // what else is read for that: scales, an adapter's factors
  /// Elements that are best computed together. What their rows share (the product of a LoRA adapter reads a
  /// whole matrix for them) is spread over more of them; what shares nothing had better stay in a cache.
  int64_t stretch = 512 * 1024;
};

/// The stored tensors that its values are read from: itself, or what it is derived from; none without a file.
std::vector<const StoredTensor*> stored_sources(const StoredTensor& tensor);

/// Copies rows [first, first + count) (slices along the first dimension) in the model's order, in the type
/// that its spec names; `out` holds count * row_bytes().
void read_rows(const StoredTensor& tensor, int64_t first, int64_t count, std::span<std::byte> out);

/// The same rows in float32. Not for integers, which do not convert.
void read_row_values(const StoredTensor& tensor, int64_t first, int64_t count, std::span<float> values);

/// Gives back the pages of the file that these rows were read from; about these, where a row is not read from
/// the one row in its place.
void release_rows(const StoredTensor& tensor, int64_t first, int64_t count);

/// Where a tensor was read from, for messages and plans: the folder of a safetensors or PyTorch file, or the
/// GGUF file.
std::filesystem::path place_of(const StoredTensor& tensor);

/// A GGUF file's tensor in the model's own terms.
struct GgufAlias {
  std::string name;  // empty: not one of the weights
  int64_t rotary_heads = 0;
};

/// The weights of a model: of a folder model.safetensors or the shards that model.safetensors.index.json
/// names; without these pytorch_model.bin or the shards that pytorch_model.bin.index.json names; or those of
/// a GGUF file. Headers are validated when it is opened, and no code in a .bin file runs; bytes are
/// memory-mapped, and tensors may share them; once set up, immutable and safe to share between threads.
class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& folder);
  /// The tensors of `gguf` by the names that `alias` gives them. Throws input for two of one name and for
  /// rows that do not divide into their heads.
  Checkpoint(GgufFiles gguf, const std::function<GgufAlias(const TensorSpec&)>& alias);

  /// The tensors of one .safetensors or .bin file, an adapter's say.
  static Checkpoint open_file(const std::filesystem::path& file);

  /// Tensors of other checkpoints under names of their own, whose files must outlive this object.
  static Checkpoint of_tensors(const std::filesystem::path& path, std::vector<StoredTensor> tensors);

  /// Replaces every tensor by those that `change` makes of it: none, others, several.
  void transform(const std::function<std::vector<StoredTensor>(const StoredTensor&)>& change);

  /// The folder, or the file.
  const std::filesystem::path& path() const { return path_; }
  /// The metadata of a GGUF file, null for a folder.
  const GgufMetadata* gguf() const { return gguf_ ? &*gguf_ : nullptr; }
  /// By file and offset, the order in which a disk likes to be read.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const StoredTensor* find(std::string_view name) const;
  /// As find(), but a missing tensor is an error that names the model.
  const StoredTensor& at(std::string_view name) const;
  int64_t bytes() const;

 private:
  Checkpoint() = default;
  void add_file(const std::filesystem::path& file, WeightReader read);
  void add(StoredTensor tensor);

  std::filesystem::path path_;
  std::optional<GgufMetadata> gguf_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::vector<StoredTensor> tensors_;
  std::unordered_map<std::string, size_t> by_name_;
};

}  // namespace moerge
