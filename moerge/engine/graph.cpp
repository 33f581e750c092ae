#include "moerge/engine/graph.h"

#include "moerge/base/error.h"

namespace moerge {

Graph::Graph(const Workbench& bench, size_t max_nodes)
    : bench_(bench),
      context_(ggml_init({max_nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(max_nodes, false),
                          nullptr,
                          /*no_alloc=*/true})),
      graph_(ggml_new_graph_custom(context_.get(), max_nodes, false)) {}

ggml_tensor* Graph::input(ggml_type type, int64_t columns, int64_t rows) {
  ggml_tensor* tensor = ggml_new_tensor_2d(context(), type, columns, rows);
  ggml_set_input(tensor);
  return tensor;
}

void Graph::output(ggml_tensor* tensor) {
  ggml_set_output(tensor);
  add(tensor);
}

void Graph::allocate() {
  if (!ggml_gallocr_alloc_graph(bench_.allocator, graph_)) fail(ErrorKind::io, "no memory for activations");
  ggml_backend_dev_t device = ggml_backend_get_device(bench_.backend);
  for (int i = 0; i < ggml_graph_n_nodes(graph_); i++)
    if (const ggml_tensor* node = ggml_graph_node(graph_, i); !ggml_backend_dev_supports_op(device, node))
      fail(ErrorKind::unsupported, "device \"{}\" cannot compute {} for this model",
           ggml_backend_dev_name(device), ggml_op_desc(node));
}

void Graph::run() {
  const ggml_status status = ggml_backend_graph_compute(bench_.backend, graph_);
  if (status != GGML_STATUS_SUCCESS)
    fail(ErrorKind::io, "{} stopped: {}", ggml_backend_name(bench_.backend), ggml_status_to_string(status));
}

ggml_tensor* Graph::norm(ggml_tensor* x, Role role) const {
  const auto epsilon = static_cast<float>(bench_.model.config.norm_epsilon);
  return ggml_mul(context(), ggml_rms_norm(context(), x, epsilon), bench_.weights.at(role));
}

ggml_tensor* Graph::project(ggml_tensor* x, Role matrix) const {
  return ggml_mul_mat(context(), bench_.weights.at(matrix), x);
}

ggml_tensor* Graph::project(ggml_tensor* x, Role matrix, Role bias) const {
  ggml_tensor* b = bench_.weights.at(bias);
  return b ? ggml_add(context(), project(x, matrix), b) : project(x, matrix);
}

ggml_tensor* Graph::feed_forward(ggml_tensor* x, Role gate, Role up, Role down) const {
  return project(ggml_swiglu_split(context(), project(x, gate), project(x, up)), down);
}

}  // namespace moerge
