#include "moerge/plan/execute.h"

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/base/parallel.h"
#include "moerge/base/random.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

// Elements converted at a time; a multiple of every vector length, small enough for the second-level cache.
constexpr int64_t kChunk = 64 * 1024;

struct Work {
  size_t step;
  const Part* part;
  int64_t offset;  // in the output tensor, bytes
};

// Noise and scale in float32, rounded to the source's type after each, which is what mergekit's tensors do.
void change_values(const Part& part, uint64_t seed, int64_t first, std::span<float> values,
                   std::span<std::byte> rounded) {
  const DType dtype = part.source->spec.dtype;
  const auto round_to_source = [&] {
    const auto bytes = rounded.first(values.size() * static_cast<size_t>(info(dtype).bytes));
    from_f32(values, dtype, bytes);
    to_f32(dtype, bytes, values);
  };
  if (part.noise_scale != 0) {
    const RandomStream stream(seed, part.noise_stream);
    const auto scale = static_cast<float>(part.noise_scale);
    for (size_t i = 0; i < values.size(); i++)
      values[i] += scale * stream.normal(static_cast<uint64_t>(first) + i);
    round_to_source();
  }
  if (part.residual_scale != 1) {
    const auto scale = static_cast<float>(part.residual_scale);
    for (float& value : values) value *= scale;
    round_to_source();
  }
}

void convert_part(const Plan& plan, const Work& work, TensorSink& sink, Progress* progress) {
  const Part& part = *work.part;
  const DType from = part.source->spec.dtype, to = plan.steps[work.step].out.dtype;
  const int64_t in = info(from).bytes, out = info(to).bytes, total = part.source->spec.elements();
  const TensorView view = part.source->view();
  std::vector<float> values(static_cast<size_t>(std::min(total, kChunk)));
  std::vector<std::byte> bytes(values.size() * 8);
  for (int64_t first = 0; first < total; first += kChunk) {
    check_interrupted();
    const auto n = static_cast<size_t>(std::min(kChunk, total - first));
    const auto source = view.bytes.subspan(static_cast<size_t>(first * in), n * static_cast<size_t>(in));
    const auto some = std::span(values).first(n);
    to_f32(from, source, some);
    if (part.changes_values()) change_values(part, plan.seed, first, some, bytes);
    const auto target = std::span(bytes).first(n * static_cast<size_t>(out));
    from_f32(some, to, target);
    sink.put(work.step, work.offset + first * out, target);
    part.source->file->release(source);
    if (progress) progress->add(std::ssize(target));
  }
}

void run_part(const Plan& plan, const Work& work, TensorSink& sink, Progress* progress) {
  const Part& part = *work.part;
  if (part.source->spec.dtype != plan.steps[work.step].out.dtype || part.changes_values())
    return convert_part(plan, work, sink, progress);
  const int64_t bytes = part.source->spec.bytes();
  sink.copy(work.step, work.offset, *part.source->file, part.source->offset, bytes);
  if (progress) progress->add(bytes);
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

}  // namespace

void execute(const Plan& plan, TensorSink& sink, const ExecuteOptions& options) {
  sink.begin(plan.specs());
  std::vector<Work> parts;
  std::vector<size_t> fills;
  for (size_t i = 0; i < plan.steps.size(); i++) {
    const Step& step = plan.steps[i];
    const Concat* concat = std::get_if<Concat>(&step.how);
    if (!concat) {
      fills.push_back(i);
      continue;
    }
    int64_t offset = 0;
    for (const Part& part : concat->parts) {
      parts.push_back({i, &part, offset});
      offset += byte_size(step.out.dtype, part.source->spec.elements());
    }
  }
  const auto check = [&] {
    check_interrupted();
    if (options.check) options.check();
  };
  parallel_for(parts.size(), options.threads, [&](size_t i) {
    check();
    run_part(plan, parts[i], sink, options.progress);
  });
  for (size_t i : fills) {
    check();
    run_fill(plan.steps[i], i, sink, options.progress);
  }
  sink.finish();
}

}  // namespace moerge
