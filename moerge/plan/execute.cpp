#include "moerge/plan/execute.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <numeric>

#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"
#include "moerge/base/parallel.h"
#include "moerge/plan/values.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

// Elements converted at a time; a multiple of every vector length, small enough for the second-level cache.
constexpr int64_t kChunk = 64 * 1024;
// Of values that are computed, which take longer than a file's: fewer and larger writes.
constexpr int64_t kComputedChunk = 512 * 1024;

int64_t chunk_of(const StoredTensor& source) {
  return source.derivation ? std::max(kComputedChunk, source.derivation->stretch) : kChunk;
}

struct Work {
  size_t step;
  const Part* part;
  int64_t offset;  // in the output tensor, bytes
};

// Calls use(first element, its bytes) for one stretch of the source after the other, in the model's order. A
// stretch is at most chunk_of() elements or one row, and whole blocks; it is in the file or,
// where rows have to be put in order or computed, in a buffer.
template <typename Use>
void for_each_chunk(const StoredTensor& source, const Use& use) {
  const int64_t total = source.spec.elements(), row = source.row_elements();
  const std::span<const std::byte> bytes = source.stored_bytes();
  const auto size = [&](int64_t elements) {
    return static_cast<size_t>(byte_size(source.spec.dtype, elements));
  };
  if (source.is_plain()) {
    for (int64_t first = 0; first < total; first += kChunk) {
      check_aborted();
      const auto part = bytes.subspan(size(first), size(std::min(kChunk, total - first)));
      use(first, part);
      source.file->release(part);
    }
    return;
  }
  const int64_t step = std::max<int64_t>(1, chunk_of(source) / std::max<int64_t>(1, row));
  std::vector<std::byte> rows(size(std::min(step, source.rows()) * row));
  for (int64_t first = 0; first < source.rows(); first += step) {
    check_aborted();
    const int64_t count = std::min(step, source.rows() - first);
    const auto part = std::span(rows).first(size(count * row));
    read_rows(source, first, count, part);
    use(first * row, std::span<const std::byte>(part));
    if (source.derivation) release_rows(source, first, count);
  }
  source.file->release(bytes);
}

void convert_part(const Plan& plan, const Work& work, TensorSink& sink, Progress* progress) {
  const Part& part = *work.part;
  const DType from = part.source->spec.dtype, to = plan.steps[work.step].out.dtype;
  const int64_t out = info(to).bytes;
  std::vector<float> values;
  std::vector<std::byte> bytes;
  for_each_chunk(*part.source, [&](int64_t first, std::span<const std::byte> source) {
    const auto n =
        source.size() / static_cast<size_t>(info(from).bytes) * static_cast<size_t>(info(from).block);
    bytes.resize(n * static_cast<size_t>(out));
    const auto target = std::span(bytes).first(n * static_cast<size_t>(out));
    if (part.changes_values()) {
      values.resize(n);
      to_f32(from, source, values);
      change_values(part, plan.seed, first, values);
      from_f32(values, to, target);
    } else {
      convert(from, source, to, target);
    }
    sink.put(work.step, work.offset + first * out, target);
    if (progress) progress->add(std::ssize(target));
  });
}

void run_part(const Plan& plan, const Work& work, TensorSink& sink, Progress* progress) {
  const Part& part = *work.part;
  const StoredTensor& source = *part.source;
  const DType out = plan.steps[work.step].out.dtype;
  if (part.is_copied(out)) {
    sink.copy(work.step, work.offset, *source.file, source.offset, source.spec.bytes());
    if (progress) progress->add(source.spec.bytes());
    return;
  }
  if (source.spec.dtype != out || part.changes_values()) return convert_part(plan, work, sink, progress);
  for_each_chunk(source, [&](int64_t first, std::span<const std::byte> rows) {
    sink.put(work.step, work.offset + byte_size(source.spec.dtype, first), rows);
    if (progress) progress->add(std::ssize(rows));
  });
}

void run_fill(const Step& step, size_t index, TensorSink& sink, Progress* progress) {
  const std::vector<float> values = std::get<Fill>(step.how).compute();
  if (std::ssize(values) != step.out.elements())
    throw std::logic_error("a fill of another size than its tensor: " + step.out.name);
  std::vector<std::byte> bytes(static_cast<size_t>(step.out.bytes()));
  from_f32(values, step.out.dtype, bytes);
  sink.put(index, 0, bytes);
  if (progress) progress->add(std::ssize(bytes));
}

// Of one part, as run_part() goes about it, n elements at a time:
//   copied by the kernel     nothing (a buffer of copy_range() where the kernel cannot)
//   converted                n in the output's type
//   changed                  + 4 n (float32) + n in the source's type, to which they are rounded
//   rows put in order        + n in the source's type
//   computed                 + 4 n (their float32) + 8 n (what they are computed from, an adapter's factors)
int64_t part_buffer(const Part& part, DType out) {
  const StoredTensor& source = *part.source;
  const DType from = source.spec.dtype;
  const bool converts = from != out || part.changes_values();
  if (part.is_copied(out)) return std::min(source.spec.bytes(), kCopyBuffer);
  const int64_t n = std::min(source.spec.elements(),
                             std::max(chunk_of(source), source.is_plain() ? 0 : source.row_elements()));
  int64_t bytes = 0;
  if (converts) bytes += byte_size(out, n);
  if (part.changes_values()) bytes += 4 * n + byte_size(from, n);
  if (!source.is_plain()) bytes += byte_size(from, n);
  if (source.derivation) bytes += 12 * n;
  return bytes;
}

}  // namespace

int64_t buffer_bytes(const Plan& plan, int threads) {
  std::vector<int64_t> parts;
  int64_t filled = 0;
  for (const Step& step : plan.steps)
    if (const Concat* concat = std::get_if<Concat>(&step.how))
      for (const Part& part : concat->parts) parts.push_back(part_buffer(part, step.out.dtype));
    else
      filled = std::max(filled, 4 * step.out.elements() + step.out.bytes());
  std::ranges::sort(parts, std::greater());
  parts.resize(std::min(parts.size(), static_cast<size_t>(std::max(1, threads))));
  return std::max(filled, std::reduce(parts.begin(), parts.end()));
}

namespace {

std::vector<Work> list_parts(const Plan& plan, const TensorSink& sink) {
  std::vector<Work> parts;
  for (size_t i = 0; i < plan.steps.size(); i++) {
    const Step& step = plan.steps[i];
    const Concat* concat = std::get_if<Concat>(&step.how);
    if (!concat || !sink.wants(i)) continue;
    int64_t offset = 0;
    for (const Part& part : concat->parts) {
      parts.push_back({i, &part, offset});
      offset += byte_size(step.out.dtype, part.source->spec.elements());
    }
  }
  return parts;
}

using Run = std::vector<Work>;  // of one source, in the order of its bytes

// Several sources at a time, each read forwards: disks and networks like it, and so do the outputs, which
// usually are different files then. A source that is more than its share is cut.
std::vector<Run> list_runs(std::vector<Work> parts, int threads) {
  std::map<const MappedFile*, Run> by_file;
  int64_t total = 0;
  for (Work& work : parts) {
    total += work.part->source->spec.bytes();
    by_file[work.part->source->file].push_back(work);
  }
  const int64_t share = std::max<int64_t>(1, total / (16 * std::max(1, threads)));
  std::vector<std::vector<Run>> sources;
  for (auto& [file, works] : by_file) {
    std::ranges::stable_sort(works, {}, [](const Work& work) { return work.part->source->offset; });
    std::vector<Run>& runs = sources.emplace_back(1);
    int64_t bytes = 0;
    for (const Work& work : works) {
      if (bytes >= share) runs.emplace_back(), bytes = 0;
      runs.back().push_back(work);
      bytes += work.part->source->spec.bytes();
    }
  }
  // By path, so that the order is the same in every run.
  const auto path = [](const std::vector<Run>& runs) {
    const MappedFile* file = runs.front().front().part->source->file;
    return file ? file->file().path() : std::filesystem::path();
  };
  std::ranges::sort(sources, {}, path);
  std::vector<Run> runs;
  for (size_t turn = 0; std::ranges::any_of(sources, [&](auto& of) { return turn < of.size(); }); turn++)
    for (std::vector<Run>& of : sources)
      if (turn < of.size()) runs.push_back(std::move(of[turn]));
  return runs;
}

// Read while the part before it is written.
void read_ahead(const StoredTensor& source) {
  constexpr size_t kAhead = 32 << 20;
  if (!source.file) return;
  const std::span<const std::byte> bytes = source.stored_bytes();
  source.file->prefetch(bytes.first(std::min(bytes.size(), kAhead)));
}

}  // namespace

void execute(const Plan& plan, TensorSink& sink, const ExecuteOptions& options) {
  sink.begin(plan.specs());
  const auto check = [&] {
    check_interrupted();
    if (options.check) options.check();
  };
  const std::vector<Run> runs = list_runs(list_parts(plan, sink), options.threads);
  std::vector<std::atomic<size_t>> missing(plan.steps.size());  // parts
  for (const Run& run : runs)
    for (const Work& work : run) missing[work.step]++;
  parallel_for(runs.size(), options.threads, [&](size_t r) {
    for (size_t i = 0; i < runs[r].size(); i++) {
      check();
      if (i + 1 < runs[r].size()) read_ahead(*runs[r][i + 1].part->source);
      const Work& work = runs[r][i];
      const StoredTensor& source = *work.part->source;
      run_part(plan, work, sink, options.progress);
      if (options.forget && source.file)
        source.file->file().forget(source.offset, std::ssize(source.stored_bytes()));
      if (--missing[work.step] == 0) sink.complete(work.step);
    }
  });
  for (size_t i = 0; i < plan.steps.size(); i++) {
    if (!std::holds_alternative<Fill>(plan.steps[i].how) || !sink.wants(i)) continue;
    check();
    run_fill(plan.steps[i], i, sink, options.progress);
    sink.complete(i);
  }
  sink.finish();
}

}  // namespace moerge
