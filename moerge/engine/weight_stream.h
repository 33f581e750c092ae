#pragma once
// The weights of a part of one layer as ggml tensors. Internal to engine/.

#include <ggml-cpp.h>

#include <map>
#include <span>
#include <vector>

#include "moerge/engine/decoder.h"

namespace moerge {

/// The tensor of a role where the forward pass of this configuration has it, null where it has not (biases,
/// norms of some families). Throws input when the checkpoint lacks it.
const StoredTensor* find_weight(const Model& model, Role role, int64_t layer, int64_t expert = -1);

/// Holds the weights of one load() at a time: in place in the mapped file where the device can read host
/// memory and the rows lie there in order, else in one device buffer that is used again and again.
/// One-dimensional weights and routers become float32, and so do block types that the device does not
/// multiply with. Shapes and types must have been checked.
class WeightStream {
 public:
  /// `model` and `backend` must outlive this object.
  WeightStream(const Model& model, ggml_backend_t backend, WeightType type, int threads);

  /// Of a layer, or of one expert of it. Tensors of an earlier load() must no longer be used.
  void load(int64_t layer, std::span<const Role> roles, int64_t expert = -1);
  /// What load() would have to copy of these, and so its buffer's size; forgets the last load().
  size_t copied_bytes(int64_t layer, std::span<const Role> roles, int64_t expert = -1);
  /// Of the last load(); null when the model has no such weight.
  ggml_tensor* at(Role role) const;
  /// Gives back the pages that the last load() brought in. Its tensors stay valid and would read them again.
  void release() const;
  /// Asks the kernel to read these weights from disk in the meantime.
  void prefetch(int64_t layer, std::span<const Role> roles, int64_t expert = -1) const;

 private:
  struct Loaded {
    Role role;
    const StoredTensor* stored;
    ggml_tensor* tensor;
  };
  ggml_type type_for(const StoredTensor& stored, Role role) const;
  bool is_mapped(const Loaded& weight) const;
  void list(int64_t layer, std::span<const Role> roles, int64_t expert);
  /// Where each of loaded_ begins in the buffer of copies, and where the last one ends.
  std::vector<size_t> place_copies() const;
  void allocate();
  void fill(const Loaded& weight) const;
  void fill_rows(const Loaded& weight) const;

  const Model& model_;
  ggml_backend_t backend_;
  WeightType weight_type_;
  int threads_;
  // Empty when the device cannot read host memory.
  std::map<const MappedFile*, ggml_backend_buffer_ptr> mapped_;
  std::map<DType, bool> multipliable_;  // the checkpoint's block types
  ggml_backend_buffer_ptr copies_;
  ggml_context_ptr context_;
  std::vector<Loaded> loaded_;
};

}  // namespace moerge
