#include "moerge/plan/values.h"

#include <algorithm>

#include "moerge/base/random.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

void round_to(DType dtype, std::span<float> values) {
  if (dtype == DType::f32 || dtype == DType::f64 || is_quantized(dtype)) return;
  std::vector<std::byte> bytes(static_cast<size_t>(byte_size(dtype, std::ssize(values))));
  from_f32(values, dtype, bytes);
  to_f32(dtype, bytes, values);
}

// The part that holds a row, and that row's number in it. Rows are never cut by parts.
struct Place {
  const Part* part;
  int64_t row, rows;  // of the part
};
Place find_row(const Step& step, int64_t columns, int64_t row) {
  for (const Part& part : std::get<Concat>(step.how).parts) {
    const int64_t rows = part.source->spec.elements() / columns;
    if (row < rows) return {&part, row, rows};
    row -= rows;
  }
  throw std::logic_error("a row beyond the end of " + step.out.name);
}

void read_part(const Part& part, int64_t columns, int64_t row, std::span<float> values) {
  const StoredTensor& source = *part.source;
  const DType dtype = source.spec.dtype;
  const auto begin = static_cast<size_t>(byte_size(dtype, row * columns));
  const auto size = static_cast<size_t>(byte_size(dtype, std::ssize(values)));
  if (source.is_plain()) {
    const auto bytes = source.view().bytes.subspan(begin, size);
    to_f32(dtype, bytes, values);
    source.file->release(bytes);
    return;
  }
  const int64_t first = row * columns / source.row_elements(),
                count = std::ssize(values) / source.row_elements();
  std::vector<std::byte> rows(size);
  read_rows(source, first, count, rows);
  to_f32(dtype, rows, values);
  if (source.derivation) release_rows(source, first, count);
}

}  // namespace

void change_values(const Part& part, uint64_t seed, int64_t first, std::span<float> values) {
  const DType dtype = part.source->spec.dtype;
  if (part.noise_scale != 0) {
    const RandomStream stream(seed, part.noise_stream);
    const auto scale = static_cast<float>(part.noise_scale);
    for (size_t i = 0; i < values.size(); i++)
      values[i] += scale * stream.normal(static_cast<uint64_t>(first) + i);
    round_to(dtype, values);
  }
  if (part.residual_scale != 1) {
    const auto scale = static_cast<float>(part.residual_scale);
    for (float& value : values) value *= scale;
    round_to(dtype, values);
  }
}

void read_values(const Plan& plan, const Step& step, int64_t columns, int64_t first_row,
                 std::span<float> values) {
  for (size_t done = 0; done < values.size();) {
    const Place place = find_row(step, columns, first_row + static_cast<int64_t>(done) / columns);
    const auto left = static_cast<size_t>((place.rows - place.row) * columns);
    const auto some = values.subspan(done, std::min(values.size() - done, left));
    read_part(*place.part, columns, place.row, some);
    if (place.part->changes_values()) change_values(*place.part, plan.seed, place.row * columns, some);
    if (place.part->source->spec.dtype != step.out.dtype && !is_quantized(place.part->source->spec.dtype))
      round_to(step.out.dtype, some);
    done += some.size();
  }
}

std::optional<StoredRows> find_stored_rows(const Step& step, DType dtype, const RowRange& range) {
  const Place place = find_row(step, range.columns, range.first_row);
  const StoredTensor& source = *place.part->source;
  const bool passed_on = source.spec.dtype == dtype && !source.derivation && !place.part->changes_values() &&
                         (step.out.dtype == dtype || is_quantized(dtype)) &&
                         source.rotary_heads == range.rotary_heads;
  if (!passed_on || place.row + range.rows > place.rows) return std::nullopt;
  return StoredRows{source.file, source.offset + byte_size(dtype, place.row * range.columns)};
}

}  // namespace moerge
