#include "moerge/merge/merged_tensor.h"

#include <algorithm>
#include <memory>
#include <mutex>

#include "moerge/base/interrupt.h"
#include "moerge/merge/kernels.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

// Elements of an input that are looked at together: the inputs of a usual merge fit into a core's cache.
constexpr int64_t kBlock = 64 * 1024;

// Buffers that a thread keeps from one block to the next. A merge of merges needs several at a time.
class Buffers {
 public:
  explicit Buffers(size_t count) : kept_(pool()) {
    if (!kept_.empty()) mine_ = std::move(kept_.back()), kept_.pop_back();
    if (mine_.values.size() < count) mine_.values.resize(count);
  }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  ~Buffers() { kept_.push_back(std::move(mine_)); }

  std::span<float> get(size_t number, size_t size) {
    std::vector<float>& values = mine_.values[number];
    if (values.size() < size) values.resize(size);
    return std::span(values).first(size);
  }
  std::vector<std::byte>& bytes() { return mine_.bytes; }

 private:
  struct Kept {
    std::vector<std::vector<float>> values;
    std::vector<std::byte> bytes;
  };
  static std::vector<Kept>& pool() {
    static thread_local std::vector<Kept> kept;
    return kept;
  }

  std::vector<Kept>& kept_;
  Kept mine_;
};

// With reads rather than through the mapping: what is looked at once need not be mapped page by page.
void read_whole_rows(const StoredTensor& input, int64_t first, int64_t count, std::vector<std::byte>& bytes,
                     std::span<float> values) {
  if (!input.is_plain()) {
    read_row_values(input, first, count, values);
    return release_rows(input, first, count);
  }
  bytes.resize(static_cast<size_t>(count * input.row_bytes()));
  input.file->file().read_at(input.offset + first * input.row_bytes(), bytes);
  to_f32(input.spec.dtype, bytes, values);
}

class Merge {
 public:
  Merge(MergeJob job, std::vector<StoredTensor> inputs) : job_(std::move(job)), inputs_(std::move(inputs)) {}

  void compute(int64_t first, int64_t count, std::span<float> out) {
    std::call_once(looked_, [this] { look(); });
    for_each_block(first, count, [&](const MergeBlock& block) {
      const int64_t done = block.first - first * job_.columns();
      merge_->combine(block, out.subspan(static_cast<size_t>(done), block.size()));
    });
  }

 private:
  void look() {
    std::unique_ptr<TensorMerge> merge = job_.method->make(job_);
    for (int pass = 0; pass < merge->passes(); pass++) {
      for_each_block(0, job_.rows(), [&](const MergeBlock& block) { merge->look(pass, block); });
      merge->end_pass(pass);
    }
    merge_ = std::move(merge);
  }

  template <typename Use>
  void for_each_block(int64_t first, int64_t count, const Use& use) {
    const int64_t columns = job_.columns(),
                  step = std::max<int64_t>(1, kBlock / std::max<int64_t>(1, columns));
    Buffers buffers(2 * inputs_.size());
    std::vector<std::span<const float>> values(inputs_.size());
    for (int64_t row = first; row < first + count; row += step) {
      check_aborted();
      const int64_t rows = std::min(step, first + count - row);
      for (size_t i = 0; i < inputs_.size(); i++) values[i] = read(i, row, rows, buffers);
      use(MergeBlock{.first = row * columns, .inputs = values});
    }
  }

  std::span<const float> read(size_t i, int64_t row, int64_t rows, Buffers& buffers) {
    const StoredTensor& input = inputs_[i];
    const int64_t columns = job_.columns(), own = input.row_elements();
    std::span<float> values = buffers.get(2 * i, static_cast<size_t>(rows * own));
    read_whole_rows(input, row, rows, buffers.bytes(), values);
    if (own != columns) {
      const std::span<float> cut = buffers.get(2 * i + 1, static_cast<size_t>(rows * columns));
      for (int64_t r = 0; r < rows; r++)
        std::copy_n(values.begin() + r * own, columns, cut.begin() + r * columns);
      values = cut;
    }
    if (input.spec.dtype != job_.dtype) scale_values(job_.dtype, 1, values);
    return values;
  }

  const MergeJob job_;
  const std::vector<StoredTensor> inputs_;
  std::once_flag looked_;
  std::unique_ptr<const TensorMerge> merge_;  // once it has looked
};

}  // namespace

StoredTensor merged_tensor(MergeJob job, std::vector<StoredTensor> inputs, std::string how) {
  StoredTensor out = inputs.front();
  out.spec = {.name = job.name, .dtype = job.dtype, .shape = job.shape};
  out.rotary_heads = 0;
  const std::vector<StoredTensor> beside(inputs.begin() + 1, inputs.end());
  const StoredTensor first = inputs.front();
  const auto merge = std::make_shared<Merge>(std::move(job), std::move(inputs));
  out.derivation = std::make_shared<Derivation>(
      Derivation{.source = first,
                 .how = std::move(how),
                 .compute = [merge](int64_t from, int64_t count,
                                    std::span<float> values) { merge->compute(from, count, values); },
                 .beside = beside});
  return out;
}

}  // namespace moerge
