// The CPU backend offers each operation to its "extra buffer types" first, which is how weights in layouts of
// their own are multiplied. One more of these, which no tensor ever lies in, takes the operations that would
// round. It is added behind the backend's back: the list that loaders choose from is a copy made before.
#include "moerge/engine/float32_compute.h"

#include <ggml-backend-impl.h>
#include <ggml-backend.h>
#include <ggml-cpu-impl.h>
#include <ggml-cpu.h>
#include <ops.h>
#include <traits.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

namespace moerge {
namespace {

std::atomic<int> alive = 0;

// Widened weights that are multiplied at once. Large enough for llama.cpp's tiles, small enough for caches.
constexpr int64_t kBlockBytes = 8 << 20;
constexpr int64_t kRowStep = 64;
constexpr int64_t kExpertRows = 512;  // activations that an expert is given at once

struct Range {
  int64_t begin, end;
};

Range share_of(const ggml_compute_params& params, int64_t count) {
  return {count * params.ith / params.nth, count * (params.ith + 1) / params.nth};
}

int64_t block_rows(const ggml_tensor& weights) {
  const int64_t row = weights.ne[0] * static_cast<int64_t>(sizeof(float));
  const int64_t fit = std::max<int64_t>(1, kBlockBytes / row / kRowStep) * kRowStep;
  return std::min(fit, weights.ne[1]);
}

// float32 matrix [columns, rows] at `data`, rows one after the other.
ggml_tensor matrix(float* data, int64_t columns, int64_t rows) {
  ggml_tensor out = {};
  out.type = GGML_TYPE_F32;
  out.data = data;
  const size_t row = static_cast<size_t>(columns) * sizeof(float);
  const int64_t ne[] = {columns, rows, 1, 1};
  const size_t nb[] = {sizeof(float), row, row * static_cast<size_t>(rows), row * static_cast<size_t>(rows)};
  std::ranges::copy(ne, out.ne);
  std::ranges::copy(nb, out.nb);
  return out;
}

char* address(const ggml_tensor& tensor, int64_t i1, int64_t i2, int64_t i3 = 0) {
  return static_cast<char*>(tensor.data) + static_cast<size_t>(i1) * tensor.nb[1] +
         static_cast<size_t>(i2) * tensor.nb[2] + static_cast<size_t>(i3) * tensor.nb[3];
}

// This thread's share of rows [begin, begin + count) of a matrix of `weights`.
void widen(const ggml_compute_params& params, const ggml_tensor& weights, const char* matrix, int64_t begin,
           int64_t count, float* out) {
  const int64_t columns = weights.ne[0];
  const Range rows = share_of(params, count);
  for (int64_t i = rows.begin; i < rows.end; i++) {
    const char* const row = matrix + static_cast<size_t>(begin + i) * weights.nb[1];
    if (weights.type == GGML_TYPE_F16)
      ggml_cpu_fp16_to_fp32(reinterpret_cast<const ggml_fp16_t*>(row), out + i * columns, columns);
    else
      ggml_cpu_bf16_to_fp32(reinterpret_cast<const ggml_bf16_t*>(row), out + i * columns, columns);
  }
}

// product = weights * states as ggml multiplies float32, by all threads together; complete when it returns.
void multiply(const ggml_compute_params& params, ggml_tensor& weights, ggml_tensor& states,
              ggml_tensor& product) {
  product.op = GGML_OP_MUL_MAT;
  std::ranges::fill(product.op_params, 0);
  std::ranges::fill(product.src, nullptr);
  product.src[0] = &weights;
  product.src[1] = &states;
  ggml_compute_forward_mul_mat(&params, &product);
  ggml_barrier(params.threadpool);
}

class Product final : public ggml::cpu::tensor_traits {
 public:
  bool work_size(int /*threads*/, const ggml_tensor* op, size_t& size) override {
    const ggml_tensor& weights = *op->src[0];
    size = static_cast<size_t>(block_rows(weights) * weights.ne[0]) * sizeof(float);
    return true;
  }

  // Each matrix of `weights` is multiplied by r2 x r3 of `states`, as ggml_mul_mat() has it; the sums are
  // those of widened weights bit for bit, as ggml's own kernel makes them.
  bool compute_forward(ggml_compute_params* params, ggml_tensor* op) override {
    const ggml_tensor& weights = *op->src[0];
    const ggml_tensor& states = *op->src[1];
    const int64_t r2 = states.ne[2] / weights.ne[2], r3 = states.ne[3] / weights.ne[3];
    auto* const block = static_cast<float*>(params->wdata);
    for (int64_t i3 = 0; i3 < weights.ne[3]; i3++)
      for (int64_t i2 = 0; i2 < weights.ne[2]; i2++)
        for (int64_t row = 0; row < weights.ne[1]; row += block_rows(weights)) {
          const int64_t rows = std::min(block_rows(weights), weights.ne[1] - row);
          widen(*params, weights, address(weights, 0, i2, i3), row, rows, block);
          ggml_barrier(params->threadpool);
          ggml_tensor wide = matrix(block, weights.ne[0], rows), some = states, product = *op;
          some.data = address(states, 0, i2 * r2, i3 * r3);
          product.data = address(*op, 0, i2 * r2, i3 * r3) + static_cast<size_t>(row) * sizeof(float);
          product.ne[0] = rows;
          some.ne[2] = product.ne[2] = r2;
          some.ne[3] = product.ne[3] = r3;
          multiply(*params, wide, some, product);
        }
    return true;
  }
};

// What the threads share while they multiply by experts, in the backend's work memory.
struct ExpertWork {
  float* block = nullptr;     // widened weights
  float* states = nullptr;    // gathered, [columns, kExpertRows at most]
  float* products = nullptr;  // [rows of the block, likewise]
  int64_t* ends = nullptr;    // of each expert's part of `order`
  int64_t* order = nullptr;   // slot + slots * token, by expert; slots: the experts of a token
  size_t bytes = 0;

  ExpertWork(const ggml_tensor& op, void* memory) {
    const ggml_tensor& weights = *op.src[0];
    const int64_t all = ggml_nelements(op.src[2]);
    const int64_t rows = std::min(kExpertRows, all);
    const auto take = [&]<typename T>(T*& part, int64_t count) {
      constexpr size_t kAlignment = 64;
      if (memory) part = reinterpret_cast<T*>(static_cast<char*>(memory) + bytes);
      bytes += (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    };
    take(block, block_rows(weights) * weights.ne[0]);
    take(states, rows * weights.ne[0]);
    take(products, rows * block_rows(weights));
    take(ends, weights.ne[2]);
    take(order, all);
  }

  void sort(const ggml_tensor& ids, int64_t experts) {
    const int64_t slots = ids.ne[0], all = ggml_nelements(&ids);
    const auto expert_of = [&](int64_t i) {
      const char* const at = static_cast<const char*>(ids.data) + static_cast<size_t>(i % slots) * ids.nb[0] +
                             static_cast<size_t>(i / slots) * ids.nb[1];
      int32_t expert = 0;
      std::memcpy(&expert, at, sizeof expert);
      GGML_ASSERT(expert >= 0 && expert < experts);
      return expert;
    };
    std::fill(ends, ends + experts, 0);
    for (int64_t i = 0; i < all; i++) ends[expert_of(i)]++;
    int64_t begin = 0;
    for (int64_t expert = 0; expert < experts; expert++) begin += std::exchange(ends[expert], begin);
    for (int64_t i = 0; i < all; i++) order[ends[expert_of(i)]++] = i;
  }
};

class ExpertProduct final : public ggml::cpu::tensor_traits {
 public:
  bool work_size(int /*threads*/, const ggml_tensor* op, size_t& size) override {
    size = ExpertWork(*op, nullptr).bytes;
    return true;
  }

  bool compute_forward(ggml_compute_params* params, ggml_tensor* op) override {
    ExpertWork work(*op, params->wdata);
    const int64_t experts = op->src[0]->ne[2];
    if (params->ith == 0) work.sort(*op->src[2], experts);
    ggml_barrier(params->threadpool);
    for (int64_t expert = 0; expert < experts; expert++) {
      const int64_t end = work.ends[expert];
      for (int64_t i = expert > 0 ? work.ends[expert - 1] : 0; i < end; i += kExpertRows)
        multiply_by(*params, *op, expert, work,
                    {work.order + i, static_cast<size_t>(std::min(kExpertRows, end - i))});
    }
    return true;
  }

 private:
  static void multiply_by(const ggml_compute_params& params, ggml_tensor& op, int64_t expert,
                          const ExpertWork& work, std::span<const int64_t> asking) {
    const ggml_tensor& weights = *op.src[0];
    const int64_t columns = weights.ne[0], count = std::ssize(asking);
    const Range mine = share_of(params, count);
    gather(op, asking, mine, work.states);
    for (int64_t row = 0; row < weights.ne[1]; row += block_rows(weights)) {
      const int64_t rows = std::min(block_rows(weights), weights.ne[1] - row);
      widen(params, weights, address(weights, 0, expert), row, rows, work.block);
      ggml_barrier(params.threadpool);
      ggml_tensor wide = matrix(work.block, columns, rows), states = matrix(work.states, columns, count),
                  product = matrix(work.products, rows, count);
      multiply(params, wide, states, product);
      for (int64_t i = mine.begin; i < mine.end; i++)
        std::memcpy(reinterpret_cast<float*>(place(op, asking, i)) + row, work.products + i * rows,
                    static_cast<size_t>(rows) * sizeof(float));
    }
  }

  static void gather(const ggml_tensor& op, std::span<const int64_t> asking, Range mine, float* out) {
    const ggml_tensor& states = *op.src[1];
    const int64_t slots = op.src[2]->ne[0], columns = states.ne[0];
    for (int64_t i = mine.begin; i < mine.end; i++) {
      const int64_t slot = asking[static_cast<size_t>(i)] % slots,
                    token = asking[static_cast<size_t>(i)] / slots;
      std::memcpy(out + i * columns, address(states, slot % states.ne[1], token),
                  static_cast<size_t>(columns) * sizeof(float));
    }
  }

  static char* place(const ggml_tensor& op, std::span<const int64_t> asking, int64_t i) {
    const int64_t slots = op.src[2]->ne[0];
    return address(op, asking[static_cast<size_t>(i)] % slots, asking[static_cast<size_t>(i)] / slots);
  }
};

// What llama.cpp's graph made a float16 copy of for flash attention, if that is in memory still: keys and
// values of the context are, what was computed in the same graph may be overwritten.
ggml_tensor* before_rounding(const ggml_tensor& copy) {
  if (copy.op != GGML_OP_CPY || copy.type != GGML_TYPE_F16) return nullptr;
  ggml_tensor* const source = copy.src[0];
  const bool lasts = source->view_src && source->view_src->op == GGML_OP_NONE;
  return lasts && source->type == GGML_TYPE_F32 && source->nb[0] == sizeof(float) ? source : nullptr;
}

class FlashAttention final : public ggml::cpu::tensor_traits {
 public:
  bool work_size(int, const ggml_tensor*, size_t&) override { return false; }  // ggml's own

  bool compute_forward(ggml_compute_params* params, ggml_tensor* op) override {
    ggml_tensor exact = *op;
    exact.src[1] = before_rounding(*op->src[1]);
    exact.src[2] = before_rounding(*op->src[2]);
    ggml_compute_forward_flash_attn_ext(params, &exact);
    return true;
  }
};

// Weights: tensors of the file, as they are.
bool is_rounding_product(const ggml_tensor& op) {
  const ggml_tensor& weights = *op.src[0];
  const ggml_tensor& states = *op.src[1];
  return (weights.type == GGML_TYPE_F16 || weights.type == GGML_TYPE_BF16) && weights.op == GGML_OP_NONE &&
         states.type == GGML_TYPE_F32 && states.nb[0] == sizeof(float) && op.type == GGML_TYPE_F32 &&
         weights.nb[0] == ggml_type_size(weights.type);
}

class Operations final : public ggml::cpu::extra_buffer_type {
 public:
  bool supports_op(ggml_backend_dev_t, const ggml_tensor*) override { return false; }  // nothing lies in it

  ggml::cpu::tensor_traits* get_tensor_traits(const ggml_tensor* op) override {
    if (alive.load(std::memory_order_relaxed) == 0) return nullptr;
    switch (op->op) {
      case GGML_OP_MUL_MAT:
        return is_rounding_product(*op) ? &product_ : nullptr;
      case GGML_OP_MUL_MAT_ID:
        return is_rounding_product(*op) ? &expert_product_ : nullptr;
      case GGML_OP_FLASH_ATTN_EXT:
        return before_rounding(*op->src[1]) && before_rounding(*op->src[2]) ? &flash_attention_ : nullptr;
      default:
        return nullptr;
    }
  }

 private:
  Product product_;
  ExpertProduct expert_product_;
  FlashAttention flash_attention_;
};

const char* buffer_name(ggml_backend_buffer_type_t) { return "float32"; }
ggml_backend_buffer_t no_buffer(ggml_backend_buffer_type_t, size_t) { return nullptr; }
size_t alignment(ggml_backend_buffer_type_t) { return 64; }

void register_operations() {
  static Operations operations;
  ggml_backend_dev_t const cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  static ggml_backend_buffer_type type = {.iface = {.get_name = buffer_name,
                                                    .alloc_buffer = no_buffer,
                                                    .get_alignment = alignment,
                                                    .get_max_size = nullptr,
                                                    .get_alloc_size = nullptr,
                                                    .is_host = nullptr},
                                          .device = cpu,
                                          .context = &operations};
  [[maybe_unused]] static const bool done = [&] {
    using ExtraTypes = ggml_backend_buffer_type_t* (*)(ggml_backend_dev_t);
    const auto list = reinterpret_cast<ExtraTypes>(ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts"));
    if (list) list(cpu);  // the loaders' copy is made now
    ggml_backend_cpu_get_extra_buffer_types().push_back(&type);
    return true;
  }();
}

}  // namespace

Float32Compute::Float32Compute() {
  register_operations();
  alive++;
}

Float32Compute::~Float32Compute() { alive--; }

}  // namespace moerge
