#pragma once
// Where a plan's tensors go. A sink hears of every tensor first, so that names, files and offsets are settled
// before the first byte is computed.

#include <cstddef>
#include <cstdint>
#include <span>
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
  /// False: tensor i is there already, or another run's work. Nothing below is called for it.
  virtual bool wants(size_t) const { return true; }
  /// Bytes [offset, offset + bytes.size()) of tensor i. Any thread, any order, every byte exactly once.
  virtual void put(size_t i, int64_t offset, std::span<const std::byte> bytes) = 0;
  /// The same, with `count` bytes of a file as the source, moved by the kernel where it can.
  virtual void copy(size_t i, int64_t offset, const MappedFile& source, int64_t source_offset,
                    int64_t count) = 0;
  /// All bytes of tensor i are there. Any thread.
  virtual void complete(size_t) {}
  /// All bytes are there: writes what completes the output (the index of shards).
  virtual void finish() = 0;
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
