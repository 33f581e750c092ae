#include "moerge/engine/weight_stream.h"

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/base/parallel.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

constexpr int64_t kRowsAtOnce = 64;  // a work item: small enough for its float32 copy to stay in the cache

ggml_type stored_type(DType dtype) {
  if (!is_weight_type(dtype) && !is_quantized(dtype))
    fail(ErrorKind::unsupported, "weights of type {} cannot be computed with", info(dtype).name());
  return static_cast<ggml_type>(info(dtype).gguf_id);
}

bool can_multiply(ggml_backend_dev_t device, ggml_type type) {
  constexpr int64_t kColumns = 1024, kRows = 64;  // whole blocks of every type
  const ggml_context_ptr context(ggml_init({4 * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
  ggml_tensor* matrix = ggml_new_tensor_2d(context.get(), type, kColumns, kRows);
  ggml_tensor* states = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, kColumns, kRows);
  return ggml_backend_dev_supports_op(device, ggml_mul_mat(context.get(), matrix, states));
}

// ggml's kernels read block structures, whose members want even addresses.
bool is_aligned(const StoredTensor& stored) {
  constexpr uintptr_t kAlignment = 4;
  return !is_quantized(stored.spec.dtype) ||
         reinterpret_cast<uintptr_t>(stored.view().bytes.data()) % kAlignment == 0;
}

}  // namespace

const StoredTensor* find_weight(const Model& model, Role role, int64_t layer, int64_t expert) {
  const WeightTemplate* weight = find_weight(*model.architecture, role);
  if (!weight || (weight->required && !weight->required(model.config))) return nullptr;
  return &model.checkpoint.at(weight_name(*weight, layer, expert));
}

WeightStream::WeightStream(const Model& model, ggml_backend_t backend, WeightType type, int threads)
    : model_(model), backend_(backend), weight_type_(type), threads_(threads) {
  ggml_backend_dev_t device = ggml_backend_get_device(backend);
  ggml_backend_dev_props properties = {};
  ggml_backend_dev_get_props(device, &properties);
  for (const StoredTensor& tensor : model.checkpoint.tensors())
    if (const DType dtype = tensor.spec.dtype; is_quantized(dtype) && !multipliable_.contains(dtype))
      multipliable_[dtype] = can_multiply(device, stored_type(dtype));
  if (!properties.caps.buffer_from_host_ptr) return;
  for (const StoredTensor& tensor : model.checkpoint.tensors()) {
    if (!tensor.file) continue;
    ggml_backend_buffer_ptr& buffer = mapped_[tensor.file];
    if (buffer) continue;
    // ggml takes memory to be writable; weights are only read.
    void* bytes = const_cast<std::byte*>(tensor.file->bytes().data());
    const size_t size = tensor.file->bytes().size();
    buffer.reset(ggml_backend_dev_buffer_from_host_ptr(device, bytes, size, size));
    if (!buffer) {
      mapped_.clear();
      return;
    }
    ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
  }
}

// Block types are as small as anyone asked for, and quantising them anew would only lose more. Routers are
// small, and what they decide changes by leaps.
ggml_type WeightStream::type_for(const StoredTensor& stored, Role role) const {
  if (stored.spec.shape.size() == 1 || role == Role::router || role == Role::shared_router)
    return GGML_TYPE_F32;
  const DType dtype = stored.spec.dtype;
  if (is_quantized(dtype)) return multipliable_.at(dtype) ? stored_type(dtype) : GGML_TYPE_F32;
  if (weight_type_ == WeightType::f32)
    return role == Role::output || role == Role::embedding ? stored_type(dtype) : GGML_TYPE_F32;
  const ggml_type type = weight_type_ == WeightType::q8_0   ? GGML_TYPE_Q8_0
                         : weight_type_ == WeightType::q4_1 ? GGML_TYPE_Q4_1
                                                            : stored_type(dtype);
  return stored.spec.shape[1] % ggml_blck_size(type) == 0 ? type : stored_type(dtype);
}

bool WeightStream::is_mapped(const Loaded& weight) const {
  const StoredTensor& stored = *weight.stored;
  return !mapped_.empty() && stored.spec.shape.size() == 2 && stored.is_plain() && is_aligned(stored) &&
         weight.tensor->type == stored_type(stored.spec.dtype);
}

void WeightStream::list(int64_t layer, std::span<const Role> roles, int64_t expert) {
  loaded_.clear();
  context_.reset(ggml_init({roles.size() * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
  for (const Role role : roles) {
    const StoredTensor* stored = find_weight(model_, role, layer, expert);
    if (!stored) continue;
    const Shape& shape = stored->spec.shape;
    const ggml_type type = type_for(*stored, role);
    // ggml names the dimension with stride one first.
    ggml_tensor* tensor = shape.size() == 1 ? ggml_new_tensor_1d(context_.get(), type, shape[0])
                                            : ggml_new_tensor_2d(context_.get(), type, shape[1], shape[0]);
    loaded_.push_back({role, stored, tensor});
  }
}

void WeightStream::load(int64_t layer, std::span<const Role> roles, int64_t expert) {
  list(layer, roles, expert);
  allocate();
  for (const Loaded& weight : loaded_) fill(weight);
}

size_t WeightStream::copied_bytes(int64_t layer, std::span<const Role> roles, int64_t expert) {
  list(layer, roles, expert);
  return place_copies().back();
}

std::vector<size_t> WeightStream::place_copies() const {
  const ggml_backend_buffer_type_t kind = ggml_backend_get_default_buffer_type(backend_);
  const size_t alignment = ggml_backend_buft_get_alignment(kind);
  std::vector<size_t> offsets = {0};
  for (const Loaded& weight : loaded_) {
    const size_t size = is_mapped(weight) ? 0 : ggml_backend_buft_get_alloc_size(kind, weight.tensor);
    offsets.push_back(offsets.back() + GGML_PAD(size, alignment));
  }
  return offsets;
}

void WeightStream::allocate() {
  const ggml_backend_buffer_type_t kind = ggml_backend_get_default_buffer_type(backend_);
  const std::vector<size_t> offsets = place_copies();
  const size_t end = offsets.back();
  if (!copies_ || ggml_backend_buffer_get_size(copies_.get()) < end) {
    copies_.reset();
    copies_.reset(ggml_backend_buft_alloc_buffer(kind, end));
    if (!copies_) fail(ErrorKind::io, "no memory for {} bytes of weights of {}", end, model_.path.string());
    ggml_backend_buffer_set_usage(copies_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
  }
  auto* base = static_cast<std::byte*>(ggml_backend_buffer_get_base(copies_.get()));
  for (size_t i = 0; i < loaded_.size(); i++) {
    const Loaded& weight = loaded_[i];
    const bool in_place = is_mapped(weight);
    ggml_backend_buffer* buffer = in_place ? mapped_.at(weight.stored->file).get() : copies_.get();
    void* address = in_place ? const_cast<std::byte*>(weight.stored->view().bytes.data()) : base + offsets[i];
    if (ggml_backend_tensor_alloc(buffer, weight.tensor, address) != GGML_STATUS_SUCCESS)
      fail(ErrorKind::io, "{} does not accept the weights of {}", ggml_backend_name(backend_),
           model_.path.string());
  }
}

void WeightStream::fill(const Loaded& weight) const {
  if (is_mapped(weight)) return;
  const StoredTensor& stored = *weight.stored;
  const DType dtype = stored.spec.dtype;
  if (stored.spec.shape.size() == 1) {
    std::vector<float> values(static_cast<size_t>(stored.spec.elements()));
    read_row_values(stored, 0, stored.rows(), values);
    ggml_backend_tensor_set(weight.tensor, values.data(), 0, values.size() * sizeof(float));
  } else if (weight.tensor->type == stored_type(dtype) && stored.is_plain()) {
    const auto bytes = stored.view().bytes;
    ggml_backend_tensor_set(weight.tensor, bytes.data(), 0, bytes.size());
  } else {
    fill_rows(weight);
  }
}

// Rows in the model's order and in the tensor's type, some at a time.
void WeightStream::fill_rows(const Loaded& weight) const {
  const StoredTensor& stored = *weight.stored;
  const int64_t rows = stored.rows(), columns = stored.row_elements();
  const ggml_type type = weight.tensor->type;
  const bool convert = type != stored_type(stored.spec.dtype);
  const size_t row_bytes = ggml_row_size(type, columns);
  if (convert) ggml_quantize_init(type);
  parallel_for(static_cast<size_t>((rows + kRowsAtOnce - 1) / kRowsAtOnce), threads_, [&](size_t item) {
    const int64_t first = static_cast<int64_t>(item) * kRowsAtOnce,
                  count = std::min(kRowsAtOnce, rows - first);
    std::vector<std::byte> bytes(static_cast<size_t>(count * stored.row_bytes()));
    read_rows(stored, first, count, bytes);
    if (convert) {
      std::vector<float> values(static_cast<size_t>(count * columns));
      to_f32(stored.spec.dtype, bytes, values);
      bytes.resize(static_cast<size_t>(count) * row_bytes);
      ggml_quantize_chunk(type, values.data(), bytes.data(), 0, count, columns, nullptr);
    }
    ggml_backend_tensor_set(weight.tensor, bytes.data(), static_cast<size_t>(first) * row_bytes,
                            bytes.size());
  });
}

ggml_tensor* WeightStream::at(Role role) const {
  const auto found = std::ranges::find(loaded_, role, &Loaded::role);
  return found == loaded_.end() ? nullptr : found->tensor;
}

void WeightStream::release() const {
  for (const Loaded& weight : loaded_) weight.stored->release();
}

void WeightStream::prefetch(int64_t layer, std::span<const Role> roles, int64_t expert) const {
  for (const Role role : roles) {
    if (const StoredTensor* stored = find_weight(model_, role, layer, expert)) stored->prefetch();
  }
}

}  // namespace moerge
