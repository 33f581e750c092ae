#include "moerge/merge/lora_factors.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "moerge/base/available_memory.h"
#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"
#include "moerge/base/parallel.h"
#include "moerge/tensor/convert.h"
#include "moerge/tensor/truncated_svd.h"

namespace moerge {
namespace {

constexpr int64_t kRead = 1 << 20;  // numbers of the base at a time
// Singular values below this share of the largest are what float32 makes of 0.
constexpr float kNoise = 1e-6f;

std::vector<float> difference(const LoraModule& module) {
  const StoredTensor &model = *module.model, &base = *module.base;
  const int64_t rows = model.rows(), row = model.row_elements();
  std::vector<float> out(static_cast<size_t>(rows * row)), theirs;
  const int64_t step = std::max<int64_t>(1, kRead / row);
  for (int64_t first = 0; first < rows; first += step) {
    check_interrupted();
    const int64_t count = std::min(step, rows - first);
    const auto values =
        std::span(out).subspan(static_cast<size_t>(first * row), static_cast<size_t>(count * row));
    theirs.resize(values.size());
    read_row_values(model, first, count, values);
    read_row_values(base, first, count, theirs);
    for (size_t i = 0; i < values.size(); i++) values[i] -= theirs[i];
  }
  model.release();
  base.release();
  return out;
}

int64_t real_rank(const TruncatedSvd& svd, double epsilon) {
  const double least = std::max(epsilon, static_cast<double>(kNoise * svd.values[0]));
  return std::ranges::count_if(svd.values, [&](float value) { return value > least; });
}

// U and V of the first `rank` singular values, with these shared out between them, or all on what becomes A.
struct Factors {
  std::vector<float> left, right;  // [rows, rank], [rank, columns]
};

Factors share_out(const TruncatedSvd& svd, int64_t rank, bool a_is_left, bool distribute) {
  const auto kept = static_cast<size_t>(rank), all = static_cast<size_t>(svd.rank);
  const size_t rows = svd.left.size() / all, columns = svd.right.size() / all;
  Factors out = {std::vector<float>(rows * kept), std::vector<float>(kept * columns)};
  for (size_t k = 0; k < kept; k++) {
    const float value = svd.values[k], root = std::sqrt(value);
    const float l = distribute ? root : a_is_left ? value : 1, r = distribute ? root : a_is_left ? 1 : value;
    for (size_t i = 0; i < rows; i++) out.left[i * kept + k] = svd.left[i * all + k] * l;
    for (size_t j = 0; j < columns; j++) out.right[k * columns + j] = svd.right[k * columns + j] * r;
  }
  return out;
}

std::vector<float> transposed(const std::vector<float>& values, int64_t rows) {
  const auto r = static_cast<size_t>(rows), c = values.size() / r;
  std::vector<float> out(values.size());
  for (size_t i = 0; i < r; i++)
    for (size_t j = 0; j < c; j++) out[j * r + i] = values[i * c + j];
  return out;
}

// Rounds to the type; the values become what a reader will see.
std::vector<std::byte> written(std::vector<float>& values, DType dtype) {
  std::vector<std::byte> out(static_cast<size_t>(byte_size(dtype, std::ssize(values))));
  from_f32(values, dtype, out);
  to_f32(dtype, out, values);
  return out;
}

void decompose_module(const LoraPlan& lora, LoraModule& module, int threads) {
  const std::vector<float> values = difference(module);
  const MatrixView matrix = {values, module.shape()[0], module.shape()[1]};
  const TruncatedSvd svd = truncated_svd(
      matrix, module.rank, {.seed = lora.options.seed, .name = module.tensor, .threads = threads});
  module.difference = squared_norm(matrix, threads);
  module.residual = module.difference;
  module.rank = real_rank(svd, lora.options.epsilon);
  if (module.rank == 0) return;
  for (int64_t i = 0; i < module.rank; i++)
    module.kept +=
        static_cast<double>(svd.values[static_cast<size_t>(i)]) * svd.values[static_cast<size_t>(i)];
  const bool embedding = module.form == LoraForm::embedding;
  auto [left, right] = share_out(svd, module.rank, embedding, lora.options.distribute_scale);
  std::vector<std::byte> left_bytes = written(left, lora.dtype), right_bytes = written(right, lora.dtype);
  module.residual = squared_residual(matrix, left, right, threads);
  if (!std::isfinite(module.residual))
    fail(ErrorKind::input, "{}: its factors do not fit {}: choose another --dtype", module.tensor,
         info(lora.dtype).name());
  if (!embedding) {
    module.a = std::move(right_bytes);
    module.b = std::move(left_bytes);
    return;
  }
  std::vector<float> a = transposed(left, matrix.rows), b = transposed(right, module.rank);
  module.a = written(a, lora.dtype);
  module.b = written(b, lora.dtype);
}

// Modules at a time.
int choose_parallel(const std::vector<LoraModule*>& modules, int threads) {
  int64_t most = 1;
  for (const LoraModule* module : modules) most = std::max(most, decompose_bytes(*module));
  const std::optional<AvailableMemory> free = available_memory();
  const int64_t fit = free ? free->bytes / 2 / most : 1;
  return static_cast<int>(std::clamp<int64_t>(fit, 1, std::min<int64_t>(threads, std::ssize(modules))));
}

}  // namespace

int64_t decompose_bytes(const LoraModule& module) {
  const int64_t rows = module.shape()[0], columns = module.shape()[1];
  const int64_t factors = 4 * module.rank * (rows + columns);
  return 4 * rows * columns + svd_bytes(rows, columns, module.rank) + 3 * factors;
}

void decompose(LoraPlan& lora, int threads, Reporter& reporter) {
  std::vector<LoraModule*> modules;
  int64_t bytes = 0;
  for (LoraModule& module : lora.modules)
    if (module.rank > 0) {
      modules.push_back(&module);
      bytes += module.model->spec.bytes() + module.base->spec.bytes();
    }
  if (modules.empty()) return;
  // The largest first, so that none of them is left for the end.
  std::ranges::stable_sort(modules, std::greater(),
                           [](const LoraModule* m) { return m->model->spec.elements(); });
  const int parallel = choose_parallel(modules, threads);
  Progress progress(reporter, "decomposed", bytes);
  parallel_for(modules.size(), parallel, [&](size_t i) {
    check_interrupted();
    try {
      decompose_module(lora, *modules[i], std::max(1, threads / parallel));
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::input) throw;
      fail(ErrorKind::input, "\"{}\" minus \"{}\": {}", lora.model->name, lora.base->name, error.message());
    }
    progress.add(modules[i]->model->spec.bytes() + modules[i]->base->spec.bytes());
  });
  progress.finish();
  if (!lora.has_factors())
    fail(ErrorKind::config,
         "--sv-epsilon {}: no singular value of any module is larger: nothing is left to write",
         lora.options.epsilon);
}

LoraCloseness closeness(const LoraPlan& lora) {
  double difference = 0, residual = 0, kept = 0;
  for (const LoraModule& module : lora.modules)
    if (module.form != LoraForm::whole)
      difference += module.difference, residual += module.residual, kept += module.kept;
  if (difference == 0) return {};
  return {std::sqrt(residual / difference), kept / difference};
}

}  // namespace moerge
