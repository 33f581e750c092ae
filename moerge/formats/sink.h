#pragma once
// Where a plan's tensors go. A sink hears of every tensor first, so that names, files and offsets are settled
// before the first byte is computed.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "moerge/base/file.h"
#include "moerge/formats/checkpoint.h"
#include "moerge/tensor/tensor.h"

namespace moerge {

class TensorSink {
 public:
  virtual ~TensorSink() = default;

  /// Called once, before any bytes. Tensor i of the calls below is specs[i].
  virtual void begin(std::span<const TensorSpec> specs) = 0;
  /// Bytes [offset, offset + bytes.size()) of tensor i. Any thread, any order, every byte exactly once.
  virtual void put(size_t i, int64_t offset, std::span<const std::byte> bytes) = 0;
  /// The same, with `count` bytes of a file as the source, moved by the kernel where it can.
  virtual void copy(size_t i, int64_t offset, const MappedFile& source, int64_t source_offset,
                    int64_t count) = 0;
  /// All bytes are there: writes what completes the output (the index of shards).
  virtual void finish() = 0;
};

/// Which tensors form a shard.
struct Shard {
  std::string file;  // name in the folder
  std::vector<size_t> tensors;
};

/// Shards of at most `max_bytes` of data each (one tensor may exceed it alone), in the given order:
/// "model.safetensors" when one suffices, else "model-00001-of-0000N.safetensors".
std::vector<Shard> plan_shards(std::span<const TensorSpec> specs, int64_t max_bytes);

/// Writes safetensors shards and, for more than one, model.safetensors.index.json into an existing folder.
class SafetensorsSink final : public TensorSink {
 public:
  SafetensorsSink(std::filesystem::path folder, int64_t max_shard_bytes);

  void begin(std::span<const TensorSpec> specs) override;
  void put(size_t i, int64_t offset, std::span<const std::byte> bytes) override;
  void copy(size_t i, int64_t offset, const MappedFile& source, int64_t source_offset,
            int64_t count) override;
  void finish() override;

 private:
  struct Output {
    explicit Output(File opened) : file(std::move(opened)) {}
    File file;
    std::mutex copying;  // writers of one file exclude each other in the kernel, spinning; here they sleep
  };
  struct Place {
    Output* output;
    int64_t offset;
  };

  std::filesystem::path folder_;
  int64_t max_shard_bytes_;
  std::vector<TensorSpec> specs_;
  std::vector<Shard> shards_;
  std::deque<Output> outputs_;  // stable addresses
  std::vector<Place> places_;
};

/// Compares instead of writing: every byte against a checkpoint that exists and whose tensors lie in the
/// model's order, as a folder's always do. The first difference is an error
/// that names the tensor; finish() checks that the checkpoint holds nothing else.
class ComparingSink final : public TensorSink {
 public:
  explicit ComparingSink(const Checkpoint& written) : written_(written) {}

  void begin(std::span<const TensorSpec> specs) override;
  void put(size_t i, int64_t offset, std::span<const std::byte> bytes) override;
  void copy(size_t i, int64_t offset, const MappedFile& source, int64_t source_offset,
            int64_t count) override;
  void finish() override;

 private:
  const Checkpoint& written_;
  std::vector<const StoredTensor*> tensors_;
};

}  // namespace moerge
