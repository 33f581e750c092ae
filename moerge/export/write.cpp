#include "moerge/export/write.h"

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <numeric>

#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"
#include "moerge/base/parallel.h"
#include "moerge/base/partial_file.h"
#include "moerge/plan/source_watch.h"
#include "moerge/plan/values.h"
#include "moerge/tensor/convert.h"
#include "moerge/tensor/quantize.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr const char* kPaddingKey = "moerge.padding";
constexpr int64_t kChunk = 1 << 20;  // elements that a thread holds at a time: 4 MB of float32

bool has_experts(const ExportTensor& tensor) { return tensor.spec.shape.size() == 3; }

// One weight per column, for each expert; empty where there are none. The embeddings' may be of any size:
// they are left out then, as llama.cpp does it.
std::span<const float> importance_of(const ExportTensor& tensor, const ExportOptions& options) {
  if (!options.importance) return {};
  const int64_t experts = has_experts(tensor) ? tensor.spec.shape[0] : 1;
  if (tensor.spec.name == "token_embd.weight") {
    const auto found = options.importance->tensors.find(tensor.spec.name);
    if (found == options.importance->tensors.end() || std::ssize(found->second) != tensor.columns) return {};
  }
  return options.importance->means(tensor.spec.name, experts, tensor.columns);
}

void check_importance(const ExportPlan& plan, const OutputFile& file, const ExportOptions& options,
                      std::vector<std::string>& warnings) {
  int64_t without = 0, quantised = 0;
  for (size_t i = 0; i < plan.tensors.size(); i++) {
    const ExportTensor& tensor = plan.tensors[i];
    const DType dtype = file.specs[i].dtype;
    if (!is_quantized(dtype)) continue;
    quantised++;
    if (!importance_of(tensor, options).empty()) continue;
    without++;
    if (requires_importance(tensor.spec.name, dtype, *file.type))
      fail(
          ErrorKind::usage,
          "{}: the importance matrix {} has nothing for \"{}\", and {} is noise without it: was it made from "
          "this model?",
          file.type->name, options.importance->where, tensor.spec.name, info(dtype).gguf);
  }
  // The embeddings and, unless asked for, the output matrix are never in one.
  if (without > 2)
    warnings.push_back(fmt::format("{}: the importance matrix has nothing for {} of {} quantised tensors",
                                   file.type->name, without, quantised));
}

void check_fallbacks(const ExportPlan& plan, const OutputFile& file, std::vector<std::string>& warnings) {
  int64_t wide = 0;
  std::string example;
  for (size_t i = 0; i < plan.tensors.size(); i++) {
    const ExportTensor& tensor = plan.tensors[i];
    if (tensor.spec.dtype == DType::f32 || tensor.columns % 256 == 0) continue;
    wide++;
    if (example.empty())
      example = fmt::format("{} has rows of {} and becomes {}", tensor.spec.name, tensor.columns,
                            info(file.specs[i].dtype).gguf);
  }
  const std::string_view name = file.type->name;
  const bool blocks_of_256 =
      name.find("_K") != std::string_view::npos || name.starts_with("IQ") || name.starts_with("TQ");
  if (wide > 0 && blocks_of_256 && name != "IQ4_NL")
    warnings.push_back(
        fmt::format("{}: {} of {} tensors have rows that are no multiple of 256 and get a type with "
                    "smaller blocks ({})",
                    name, wide, plan.tensors.size(), example));
}

void add_importance_keys(GgufMetadata& metadata, const ExportOptions& options) {
  const Importance& importance = *options.importance;
  metadata.set("quantize.imatrix.file", importance.where);
  if (!importance.datasets.empty()) metadata.set("quantize.imatrix.dataset", importance.datasets.front());
  metadata.set("quantize.imatrix.entries_count", static_cast<uint32_t>(importance.tensors.size()));
  if (importance.chunks > 0)
    metadata.set("quantize.imatrix.chunks_count", static_cast<uint32_t>(importance.chunks));
}

// Greedy, in order; a tensor larger than the limit has a part of its own.
std::vector<std::pair<size_t, size_t>> cut(std::span<const TensorSpec> specs, int64_t max_bytes) {
  std::vector<std::pair<size_t, size_t>> parts;
  int64_t bytes = 0;
  for (size_t i = 0; i < specs.size(); i++) {
    const int64_t size = (specs[i].bytes() + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment;
    if (parts.empty() || (max_bytes > 0 && bytes + size > max_bytes)) {
      parts.push_back({i, 0});
      bytes = 0;
    }
    parts.back().second++;
    bytes += size;
  }
  return parts;
}

fs::path part_path(const fs::path& whole, size_t part, size_t parts) {
  if (parts == 1) return whole;
  fs::path path = whole;
  return path.replace_filename(fmt::format("{}-{:05}-of-{:05}.gguf", whole.stem().string(), part + 1, parts));
}

// Rows of a tensor that are passed on as the source has them.
std::optional<StoredRows> find_stored(const ExportTensor& tensor, size_t slice, DType dtype,
                                      int64_t first_row, int64_t rows) {
  const Slice& of = tensor.slices[slice];
  return find_stored_rows(*of.step, dtype,
                          {.columns = tensor.columns,
                           .first_row = of.first_row + first_row,
                           .rows = rows,
                           .rotary_heads = tensor.rotary_heads});
}

bool is_computed(const Slice& slice) { return std::holds_alternative<Fill>(slice.step->how); }

// Bytes that can be shared, by the offset modulo the block size that the data would have to start at. A start
// is a multiple of the alignment.
std::map<int64_t, int64_t> count_shareable(const ExportPlan& plan, std::span<const TensorSpec> specs,
                                           size_t first, const GgufLayout& layout,
                                           const BlockSharing& sharing) {
  std::map<int64_t, int64_t> bytes_at;
  for (size_t i = 0; i < specs.size(); i++) {
    const ExportTensor& tensor = plan.tensors[first + i];
    int64_t at = layout.offsets[i] - std::ssize(layout.header);
    for (size_t s = 0; s < tensor.slices.size(); s++) {
      const int64_t bytes = byte_size(specs[i].dtype, tensor.slices[s].rows * tensor.columns);
      const auto stored = is_computed(tensor.slices[s])
                              ? std::nullopt
                              : find_stored(tensor, s, specs[i].dtype, 0, tensor.slices[s].rows);
      if (stored && sharing.possible(*stored->file)) {
        const int64_t start = sharing.start_for(stored->offset, at);
        if (start % kGgufAlignment == 0) bytes_at[start] += sharing.whole_blocks(stored->offset, bytes);
      }
      at += bytes;
    }
  }
  return bytes_at;
}

// With its data where most can be shared.
GgufLayout lay_out_part(const ExportPlan& plan, OutputFile& file, GgufMetadata& keys, size_t first,
                        std::span<const TensorSpec> specs, const BlockSharing& sharing) {
  GgufLayout layout = layout_gguf(keys, specs);
  if (sharing.block == 0) return layout;
  const auto shareable = count_shareable(plan, specs, first, layout, sharing);
  const auto best = std::ranges::max_element(shareable, {}, &std::pair<const int64_t, int64_t>::second);
  if (best == shareable.end() || best->second < layout.file_size / 10) return layout;
  file.shared += best->second;
  keys.set(kPaddingKey, std::string());
  const int64_t start = std::ssize(layout_gguf(keys, specs).header);
  const int64_t missing = sharing.start_for(best->first, start);
  keys.set(kPaddingKey, std::string(static_cast<size_t>(missing), ' '));
  return layout_gguf(keys, specs);
}

void lay_out(const ExportPlan& plan, OutputFile& file, const GgufMetadata& metadata, const fs::path& path,
             const ExportOptions& options) {
  const auto parts = cut(file.specs, options.max_part_bytes);
  if (parts.size() > UINT16_MAX)
    fail(ErrorKind::usage, "--split-max-size: {} parts, and a GGUF can have {}", parts.size(), UINT16_MAX);
  for (size_t p = 0; p < parts.size(); p++) {
    const auto [first, count] = parts[p];
    GgufMetadata keys = p == 0 ? metadata : GgufMetadata();
    if (parts.size() > 1) {
      keys.set("split.no", static_cast<uint16_t>(p));
      keys.set("split.count", static_cast<uint16_t>(parts.size()));
      keys.set("split.tensors.count", static_cast<int32_t>(file.specs.size()));
    }
    const auto specs = std::span(file.specs).subspan(first, count);
    file.parts.push_back({part_path(path, p, parts.size()), first, count,
                          lay_out_part(plan, file, keys, first, specs, options.sharing)});
  }
}

// A piece of work: rows of one slice, into every file.
struct Item {
  size_t tensor, slice;
  int64_t row;  // of the GGUF tensor
  int64_t rows;
};

std::vector<Item> list_items(const ExportPlan& plan) {
  std::vector<Item> items;
  for (size_t t = 0; t < plan.tensors.size(); t++) {
    const ExportTensor& tensor = plan.tensors[t];
    // Rows change places inside a head, so a head is never cut.
    const int64_t unit = tensor.rotary_heads ? tensor.rows() / tensor.rotary_heads : 1;
    const int64_t chunk = std::max<int64_t>(1, kChunk / (tensor.columns * unit)) * unit;
    int64_t begin = 0;
    for (size_t s = 0; s < tensor.slices.size(); s++) {
      const int64_t rows = tensor.slices[s].rows;
      const int64_t step = is_computed(tensor.slices[s]) ? rows : chunk;  // computed as a whole
      for (int64_t row = 0; row < rows; row += step)
        items.push_back({t, s, begin + row, std::min(step, rows - row)});
      begin += rows;
    }
    if (!tensor.values.empty()) items.push_back({t, 0, 0, tensor.rows()});
  }
  return items;
}

bool is_computed(const ExportPlan& plan, const Item& item) {
  const ExportTensor& tensor = plan.tensors[item.tensor];
  return !tensor.slices.empty() && is_computed(tensor.slices[item.slice]);
}

class Writer {
 public:
  Writer(const ExportPlan& plan, std::span<const OutputFile> files, const ExportOptions& options,
         const WriteOptions& how)
      : plan_(plan), files_(files), options_(options), how_(how), sources_(*plan.plan) {
    for (const OutputFile& file : files_) {
      std::vector<Place>& places = places_.emplace_back();
      for (const OutputFile::Part& part : file.parts) {
        PartialFile& target = targets_.emplace_back(part.path);
        target.file().resize(part.layout.file_size);
        target.file().write_at(0, std::as_bytes(std::span(part.layout.header)));
        for (const int64_t offset : part.layout.offsets) places.push_back({&target.file(), offset});
      }
    }
  }

  void run() {
    std::vector<Item> items = list_items(plan_);
    // Routers are being computed meanwhile and come last.
    const auto computed = std::stable_partition(items.begin(), items.end(),
                                                [&](const Item& item) { return !is_computed(plan_, item); });
    const auto stored = static_cast<size_t>(computed - items.begin());
    const auto work = [&](const Item& item) {
      check_interrupted();
      if (how_.check) how_.check();
      write(item);
    };
    parallel_for(stored, how_.threads, [&](size_t i) { work(items[i]); });
    std::for_each(computed, items.end(), work);
    check_interrupted();
    sources_.check();
    for (PartialFile& target : targets_) target.commit();
  }

 private:
  struct Place {
    File* file;
    int64_t offset;
  };

  void write(const Item& item) {
    std::vector<float> values;  // read when the first file wants them
    for (size_t f = 0; f < files_.size(); f++) {
      const ExportTensor& tensor = plan_.tensors[item.tensor];
      const DType dtype = files_[f].specs[item.tensor].dtype;
      const Place& place = places_[f][item.tensor];
      const int64_t at = place.offset + byte_size(dtype, item.row * tensor.columns);
      const int64_t bytes = byte_size(dtype, item.rows * tensor.columns);
      if (!pass_on(item, dtype, files_[f].shared > 0, *place.file, at)) {
        if (values.empty()) values = read(item);
        place.file->write_at(at, encode(item, dtype, values));
      }
      if (how_.progress) how_.progress->add(bytes);
    }
  }

  // Bytes that the file wants as the source has them.
  bool pass_on(const Item& item, DType dtype, bool shares, File& target, int64_t at) {
    const ExportTensor& tensor = plan_.tensors[item.tensor];
    if (tensor.slices.empty() || is_computed(plan_, item)) return false;
    const auto stored =
        find_stored(tensor, item.slice, dtype, item.row - slice_begin(tensor, item.slice), item.rows);
    if (!stored) return false;
    const int64_t bytes = byte_size(dtype, item.rows * tensor.columns);
    if (shares)
      copy_range(stored->file->file(), stored->offset, target, at, bytes);
    else
      target.write_at(
          at, stored->file->bytes().subspan(static_cast<size_t>(stored->offset), static_cast<size_t>(bytes)));
    return true;
  }

  static int64_t slice_begin(const ExportTensor& tensor, size_t slice) {
    int64_t begin = 0;
    for (size_t s = 0; s < slice; s++) begin += tensor.slices[s].rows;
    return begin;
  }

  std::vector<float> read(const Item& item) const {
    const ExportTensor& tensor = plan_.tensors[item.tensor];
    if (tensor.slices.empty()) return tensor.values;
    const Slice& slice = tensor.slices[item.slice];
    if (const Fill* fill = std::get_if<Fill>(&slice.step->how)) return compute(*fill, *slice.step, item);
    const int64_t row = item.row - slice_begin(tensor, item.slice);
    std::vector<float> values(static_cast<size_t>(item.rows * tensor.columns));
    read_values(*plan_.plan, *slice.step, tensor.columns, slice.first_row + row, values);
    if (tensor.rotary_heads > 0) values = permuted(tensor, item, values);
    return values;
  }

  // As a checkpoint would hold them.
  std::vector<float> compute(const Fill& fill, const Step& step, const Item& item) const {
    const ExportTensor& tensor = plan_.tensors[item.tensor];
    std::vector<float> values = fill.compute();
    if (item.row != 0 || std::ssize(values) != tensor.spec.elements())
      throw std::logic_error("a computed tensor in pieces: " + tensor.spec.name);
    if (step.out.dtype != DType::f32) {
      std::vector<std::byte> bytes(static_cast<size_t>(step.out.bytes()));
      from_f32(values, step.out.dtype, bytes);
      to_f32(step.out.dtype, bytes, values);
    }
    return values;
  }

  static std::vector<float> permuted(const ExportTensor& tensor, const Item& item,
                                     const std::vector<float>& values) {
    std::vector<float> out(values.size());
    for (int64_t row = 0; row < item.rows; row++) {
      const int64_t from = tensor.source_row(item.row + row) - item.row;
      std::copy_n(values.begin() + from * tensor.columns, tensor.columns, out.begin() + row * tensor.columns);
    }
    return out;
  }

  std::vector<std::byte> encode(const Item& item, DType dtype, std::span<const float> values) const {
    const ExportTensor& tensor = plan_.tensors[item.tensor];
    std::vector<std::byte> bytes(static_cast<size_t>(byte_size(dtype, std::ssize(values))));
    if (!is_quantized(dtype)) {
      from_f32(values, dtype, bytes);
      return bytes;
    }
    std::span<const float> importance = importance_of(tensor, options_);
    const auto columns = static_cast<size_t>(tensor.columns);
    if (!importance.empty())
      importance = importance.subspan(has_experts(tensor) ? item.slice * columns : 0, columns);
    try {
      quantize_rows(dtype, values, tensor.columns, importance, bytes);
    } catch (const Error& error) {
      fail(error.kind(), "\"{}\": {}", tensor.spec.name, error.message());
    }
    return bytes;
  }

  const ExportPlan& plan_;
  std::span<const OutputFile> files_;
  const ExportOptions& options_;
  const WriteOptions& how_;
  const SourceWatch sources_;
  std::deque<PartialFile> targets_;         // stable addresses
  std::vector<std::vector<Place>> places_;  // [file][tensor]
};

}  // namespace

int64_t OutputFile::bytes() const {
  int64_t total = 0;
  for (const Part& part : parts) total += part.layout.file_size;
  return total;
}

OutputFile plan_output(const ExportPlan& plan, const FileType& type, const fs::path& path,
                       const ExportOptions& options) {
  OutputFile file;
  file.type = &type;
  for (const ExportTensor& tensor : plan.tensors) file.specs.push_back(tensor.spec);
  const QuantizeDecision decision = decide_types(plan.metadata, file.specs,
                                                 {.file_type = type.id,
                                                  .output_type = options.output_type,
                                                  .embedding_type = options.embedding_type,
                                                  .overrides = options.overrides,
                                                  .importance = options.importance != nullptr});
  if (decision.needs_importance)
    fail(ErrorKind::usage,
         "{} is noise without an importance matrix: give one with --imatrix FILE (`moerge imatrix MODEL "
         "--text FILE` "
         "makes it), or choose a type with more bits",
         type.name);
  for (size_t i = 0; i < file.specs.size(); i++) file.specs[i].dtype = decision.types[i];
  check_fallbacks(plan, file, file.warnings);
  GgufMetadata metadata = plan.metadata;
  metadata.set("general.file_type", static_cast<uint32_t>(type.id));
  if (options.importance) {
    check_importance(plan, file, options, file.warnings);
    if (std::ranges::any_of(decision.types, is_quantized)) add_importance_keys(metadata, options);
  }
  lay_out(plan, file, metadata, path, options);
  return file;
}

void write_outputs(const ExportPlan& plan, std::span<const OutputFile> files, const ExportOptions& options,
                   const WriteOptions& how) {
  Writer(plan, files, options, how).run();
}

}  // namespace moerge
