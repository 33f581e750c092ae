#include "moerge/engine/weight_stream.h"

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/base/parallel.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

constexpr int64_t kQuantizeRows = 64;  // a work item: small enough for its float32 copy to stay in the cache

ggml_type stored_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return GGML_TYPE_F32;
    case DType::f16:
      return GGML_TYPE_F16;
    case DType::bf16:
      return GGML_TYPE_BF16;
    default:
      fail(ErrorKind::unsupported, "weights of type {} cannot be computed with", info(dtype).name());
  }
}

}  // namespace

const StoredTensor* find_weight(const Model& model, Role role, int64_t layer) {
  for (const WeightTemplate& weight : model.architecture->weights)
    if (weight.role == role)
      return !weight.required || weight.required(model.config)
                 ? &model.checkpoint.at(weight_name(weight, layer))
                 : nullptr;
  return nullptr;
}

WeightStream::WeightStream(const Model& model, ggml_backend_t backend, WeightType type, int threads)
    : model_(model), backend_(backend), weight_type_(type), threads_(threads) {
  ggml_backend_dev_t device = ggml_backend_get_device(backend);
  ggml_backend_dev_props properties = {};
  ggml_backend_dev_get_props(device, &properties);
  if (!properties.caps.buffer_from_host_ptr) return;
  for (const StoredTensor& tensor : model.checkpoint.tensors()) {
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

ggml_type WeightStream::type_for(const StoredTensor& stored) const {
  if (stored.spec.shape.size() == 1) return GGML_TYPE_F32;
  const ggml_type type = weight_type_ == WeightType::q8_0   ? GGML_TYPE_Q8_0
                         : weight_type_ == WeightType::q4_1 ? GGML_TYPE_Q4_1
                                                            : stored_type(stored.spec.dtype);
  return stored.spec.shape[1] % ggml_blck_size(type) == 0 ? type : stored_type(stored.spec.dtype);
}

bool WeightStream::is_mapped(const Loaded& weight) const {
  return !mapped_.empty() && weight.stored->spec.shape.size() == 2 &&
         weight.tensor->type == stored_type(weight.stored->spec.dtype);
}

void WeightStream::load(int64_t layer, std::span<const Role> roles) {
  loaded_.clear();
  context_.reset(ggml_init({roles.size() * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
  for (const Role role : roles) {
    const StoredTensor* stored = find_weight(model_, role, layer);
    if (!stored) continue;
    const Shape& shape = stored->spec.shape;
    // ggml names the dimension with stride one first.
    ggml_tensor* tensor = shape.size() == 1
                              ? ggml_new_tensor_1d(context_.get(), type_for(*stored), shape[0])
                              : ggml_new_tensor_2d(context_.get(), type_for(*stored), shape[1], shape[0]);
    loaded_.push_back({role, stored, tensor});
  }
  allocate();
  for (const Loaded& weight : loaded_) fill(weight);
}

void WeightStream::allocate() {
  const ggml_backend_buffer_type_t kind = ggml_backend_get_default_buffer_type(backend_);
  const size_t alignment = ggml_backend_buft_get_alignment(kind);
  std::vector<size_t> offsets;
  size_t end = 0;
  for (const Loaded& weight : loaded_) {
    offsets.push_back(end);
    if (!is_mapped(weight)) end += GGML_PAD(ggml_backend_buft_get_alloc_size(kind, weight.tensor), alignment);
  }
  if (!copies_ || ggml_backend_buffer_get_size(copies_.get()) < end) {
    copies_.reset();
    copies_.reset(ggml_backend_buft_alloc_buffer(kind, end));
    if (!copies_) fail(ErrorKind::io, "no memory for {} bytes of weights of {}", end, model_.folder.string());
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
           model_.folder.string());
  }
}

void WeightStream::fill(const Loaded& weight) const {
  if (is_mapped(weight)) return;
  const TensorView view = weight.stored->view();
  if (view.shape.size() == 1) {
    std::vector<float> values(static_cast<size_t>(view.shape[0]));
    to_f32(view.dtype, view.bytes, values);
    ggml_backend_tensor_set(weight.tensor, values.data(), 0, values.size() * sizeof(float));
  } else if (weight.tensor->type == stored_type(view.dtype)) {
    ggml_backend_tensor_set(weight.tensor, view.bytes.data(), 0, view.bytes.size());
  } else {
    quantize(weight);
  }
}

void WeightStream::quantize(const Loaded& weight) const {
  const TensorView view = weight.stored->view();
  const int64_t rows = view.shape[0], columns = view.shape[1];
  const ggml_type type = weight.tensor->type;
  const size_t row_bytes = view.bytes.size() / static_cast<size_t>(rows);
  const size_t quantized_bytes = ggml_row_size(type, columns);
  ggml_quantize_init(type);
  parallel_for(static_cast<size_t>((rows + kQuantizeRows - 1) / kQuantizeRows), threads_, [&](size_t item) {
    const int64_t first = static_cast<int64_t>(item) * kQuantizeRows,
                  count = std::min(kQuantizeRows, rows - first);
    const auto at = static_cast<size_t>(first), n = static_cast<size_t>(count);
    std::vector<float> values(static_cast<size_t>(count * columns));
    std::vector<std::byte> blocks(n * quantized_bytes);
    to_f32(view.dtype, view.bytes.subspan(at * row_bytes, n * row_bytes), values);
    ggml_quantize_chunk(type, values.data(), blocks.data(), 0, count, columns, nullptr);
    ggml_backend_tensor_set(weight.tensor, blocks.data(), at * quantized_bytes, blocks.size());
  });
}

ggml_tensor* WeightStream::at(Role role) const {
  const auto found = std::ranges::find(loaded_, role, &Loaded::role);
  return found == loaded_.end() ? nullptr : found->tensor;
}

void WeightStream::release() const {
  for (const Loaded& weight : loaded_) weight.stored->file->release(weight.stored->view().bytes);
}

void WeightStream::prefetch(int64_t layer, std::span<const Role> roles) const {
  for (const Role role : roles) {
    if (const StoredTensor* stored = find_weight(model_, role, layer))
      stored->file->prefetch(stored->view().bytes);
  }
}

}  // namespace moerge
