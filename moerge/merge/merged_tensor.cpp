#include "moerge/merge/merged_tensor.h"

#include <algorithm>
#include <memory>
#include <mutex>

#include "moerge/base/interrupt.h"
#include "moerge/merge/buffers.h"
#include "moerge/merge/kernels.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

// Elements of an input that are read together, and of those the ones that are worked on together: what a
// method makes of them stays in a core's nearest caches.
constexpr int64_t kStretch = 64 * 1024, kBlock = 8 * 1024;

class Merge {
 public:
  Merge(MergeJob job, std::vector<StoredTensor> inputs) : job_(std::move(job)), inputs_(std::move(inputs)) {}

  void compute(int64_t first, int64_t count, std::span<float> out) {
    std::call_once(looked_, [this] { look(); });
    const auto all = [](int64_t, int64_t) { return true; };
    for_each_block(first, count, all, [&](const MergeBlock& block) {
      const int64_t done = block.first - first * job_.columns();
      merge_->combine(block, out.subspan(static_cast<size_t>(done), block.size()));
    });
  }

 private:
  void look() {
    std::unique_ptr<TensorMerge> merge = job_.method->make(job_);
    for (int pass = 0; pass < merge->passes(); pass++) {
      const auto wanted = [&](int64_t first, int64_t count) { return merge->wants(pass, first, count); };
      for_each_block(0, job_.rows(), wanted, [&](const MergeBlock& block) { merge->look(pass, block); });
      merge->end_pass(pass);
    }
    merge_ = std::move(merge);
  }

  int64_t whole_rows(int64_t elements) const {
    return std::max<int64_t>(1, elements / std::max<int64_t>(1, job_.columns()));
  }

  template <typename Wanted, typename Use>
  void for_each_block(int64_t first, int64_t count, const Wanted& wanted, const Use& use) {
    const int64_t columns = job_.columns(), stretch = whole_rows(kStretch), step = whole_rows(kBlock);
    Buffers buffers;
    std::vector<std::span<const float>> values(inputs_.size());
    for (int64_t row = first; row < first + count; row += stretch) {
      check_aborted();
      const int64_t rows = std::min(stretch, first + count - row);
      if (!wanted(row * columns, rows * columns)) continue;
      for (size_t i = 0; i < inputs_.size(); i++) read(i, row, rows, buffers);
      for (int64_t done = 0; done < rows; done += step) {
        const int64_t some = std::min(step, rows - done);
        for (size_t i = 0; i < inputs_.size(); i++) values[i] = take(i, rows, done, some, buffers);
        use(MergeBlock{.first = (row + done) * columns, .inputs = values});
      }
    }
  }

  // With reads rather than through the mapping: what is looked at once need not be mapped page by page.
  void read(size_t i, int64_t row, int64_t rows, Buffers& buffers) const {
    const StoredTensor& input = inputs_[i];
    if (input.is_plain()) {
      const std::span<std::byte> bytes = buffers.bytes(i, static_cast<size_t>(rows * input.row_bytes()));
      return input.file->file().read_at(input.offset + row * input.row_bytes(), bytes);
    }
    read_row_values(input, row, rows,
                    buffers.floats(2 * i, static_cast<size_t>(rows * input.row_elements())));
    release_rows(input, row, rows);
  }

  // Rows [done, done + some) of those that read() left in the buffers.
  std::span<const float> take(size_t i, int64_t rows, int64_t done, int64_t some, Buffers& buffers) const {
    const StoredTensor& input = inputs_[i];
    const int64_t columns = job_.columns(), own = input.row_elements();
    const auto size = [](int64_t count) { return static_cast<size_t>(count); };
    std::span<float> values;
    if (input.is_plain()) {
      values = buffers.floats(2 * i, size(some * own));
      to_f32(input.spec.dtype,
             buffers.bytes(i, size(rows * input.row_bytes()))
                 .subspan(size(done * input.row_bytes()), size(some * input.row_bytes())),
             values);
    } else {
      values = buffers.floats(2 * i, size(rows * own)).subspan(size(done * own), size(some * own));
    }
    if (own != columns) {
      const std::span<float> cut = buffers.floats(2 * i + 1, size(some * columns));
      for (int64_t r = 0; r < some; r++)
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
                 .beside = beside,
                 .stretch = kStretch});
  return out;
}

}  // namespace moerge
