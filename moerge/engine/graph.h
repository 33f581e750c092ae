#pragma once
// A ggml graph under construction. Internal to engine/. Shapes in comments are ggml's: the dimension with
// stride one comes first.

#include <ggml-cpp.h>

#include <cstdint>
#include <span>

#include "moerge/engine/weight_stream.h"

namespace moerge {

/// Long sequences attend in blocks of queries, so that masks grow with the length and not with its square.
inline constexpr int64_t kQueryBlock = 512;

/// What the parts of the forward pass compute with.
struct Workbench {
  const Model& model;
  ggml_backend_t backend;
  ggml_gallocr_t allocator;  // of activations
  WeightStream& weights;
};

class Graph {
 public:
  Graph(const Workbench& bench, size_t max_nodes);

  ggml_context* context() const { return context_.get(); }
  ggml_tensor* input(ggml_type type, int64_t columns, int64_t rows);
  /// Computes `tensor` at this point, before everything that is added later.
  void add(ggml_tensor* tensor) { ggml_build_forward_expand(graph_, tensor); }
  /// As add(), and its values can be read after run().
  void output(ggml_tensor* tensor);
  /// After this, inputs can be set and run() called. Throws io without the memory for it, unsupported for
  /// what the device does not compute.
  void allocate();
  void run();

  // The layers' building blocks, over the weights that are loaded.

  /// RMS norm over the first dimension.
  ggml_tensor* norm(ggml_tensor* x, Role role) const;
  /// matrix * x, plus the bias where the model has it.
  ggml_tensor* project(ggml_tensor* x, Role matrix) const;
  ggml_tensor* project(ggml_tensor* x, Role matrix, Role bias) const;
  /// down * (silu(gate * x) . (up * x))
  ggml_tensor* feed_forward(ggml_tensor* x, Role gate, Role up, Role down) const;

 private:
  const Workbench& bench_;
  ggml_context_ptr context_;
  ggml_cgraph* graph_;
};

template <typename T>
void set(ggml_tensor* tensor, std::span<const T> values) {
  ggml_backend_tensor_set(tensor, values.data(), 0, values.size_bytes());
}
inline void get(const ggml_tensor* tensor, std::span<float> values) {
  ggml_backend_tensor_get(tensor, values.data(), 0, values.size_bytes());
}

}  // namespace moerge
