#include "moerge/model/quantization.h"

#include <algorithm>
#include <array>

#include "moerge/base/error.h"

namespace moerge {
namespace {

constexpr std::array<const char*, 2> kKeys = {"quantization_config", "compression_config"};
constexpr std::array<std::string_view, 3> kMethods = {"fp8", "fbgemm_fp8", "compressed-tensors"};
constexpr std::string_view kCompressed = "compressed-tensors";
// Of compressed-tensors: those whose weights are whole bytes, or not quantised at all.
constexpr std::array<std::string_view, 4> kFormats = {"float-quantized", "int-quantized", "naive-quantized",
                                                      "dense"};
// Members of a compressed-tensors configuration that change the weights in yet another way.
constexpr std::array<const char*, 2> kOtherChanges = {"sparsity_config", "transform_config"};
// What stands beside weights; scales of activations and of the cache among them.
constexpr std::array<std::string_view, 4> kBeside = {"_scale", "_scale_inv", "_scale_ub", "_zero_point"};
constexpr int64_t kFp8Block = 128;

// Neighbouring weights that share a scale.
struct Block {
  int64_t rows, columns;
  bool operator==(const Block&) const = default;
};

bool is_eight_bit(DType dtype) {
  return dtype == DType::f8_e4m3 || dtype == DType::f8_e5m2 || dtype == DType::i8;
}

bool is_beside(std::string_view name) {
  return std::ranges::any_of(kBeside, [&](std::string_view end) { return name.ends_with(end); });
}

// A member that is neither absent nor null nor empty.
const Json* find_value(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() || found->empty() ? nullptr : &*found;
}

[[noreturn]] void refuse(const std::string& where, const std::string& what) {
  fail(ErrorKind::unsupported,
       "{}: the weights are quantised ({}), which is not read: use the model that they were made from, or a "
       "GGUF file of it",
       where, what);
}

void check_format(const Json& object, const std::string& where) {
  const auto format = json_string(object, "format", where);
  if (format && std::ranges::find(kFormats, *format) == kFormats.end())
    refuse(where, fmt::format("{}, format {}", kCompressed, *format));
}

// The schemes of "config_groups"; one may be a list of module names whose scheme has a name.
std::vector<const Json*> groups_of(const Json& quantization) {
  std::vector<const Json*> out;
  if (const Json* groups = find_value(quantization, "config_groups"); groups && groups->is_object())
    for (const auto& [name, group] : groups->items())
      if (group.is_object()) out.push_back(&group);
  return out;
}

void check_compressed(const Json& quantization, const std::string& where) {
  check_format(quantization, where);
  for (const Json* group : groups_of(quantization)) check_format(*group, where);
  for (const char* key : kOtherChanges) {
    const Json* change = find_value(quantization, key);
    if (!change) continue;
    const auto format = change->is_object() ? json_string(*change, "format", where) : std::nullopt;
    if (format == "dense") continue;
    refuse(where, fmt::format("{}, {}{}", kCompressed, key, format ? " " + *format : ""));
  }
}

int64_t block_size(const Json& value, const std::string& where) {
  if (!value.is_number_integer() || value < 1 || value > kMaxDimension)
    fail(ErrorKind::input, "{}: a quantisation block is {}, expected numbers from 1 to {}", where,
         value.dump(), kMaxDimension);
  return value.get<int64_t>();
}

void add_block(std::vector<Block>& blocks, const Json& value, const std::string& where) {
  if (!value.is_array() || value.size() != 2)
    fail(ErrorKind::input, "{}: a quantisation block is {}, expected [rows, columns]", where, value.dump());
  const Block block = {block_size(value[0], where), block_size(value[1], where)};
  if (std::ranges::find(blocks, block) == blocks.end()) blocks.push_back(block);
}

// The blocks that config.json names; one scale a tensor or a row needs no name.
std::vector<Block> named_blocks(const Json& quantization, const std::string& where) {
  std::vector<Block> blocks;
  if (const Json* size = find_value(quantization, "weight_block_size"))
    add_block(blocks, *size, where);
  else if (!quantization.contains("weight_block_size"))
    blocks.push_back({kFp8Block, kFp8Block});
  for (const Json* group : groups_of(quantization)) {
    const Json* weights = find_value(*group, "weights");
    if (!weights) continue;
    if (const Json* size = find_value(*weights, "block_structure")) add_block(blocks, *size, where);
    if (const auto size = json_int(*weights, "group_size", where); size && *size > 0)
      add_block(blocks, Json::array({1, *size}), where);
  }
  return blocks;
}

int64_t blocks_in(int64_t size, int64_t block) { return (size + block - 1) / block; }

// A weight with what stands beside it.
struct Scaled {
  StoredTensor weight;
  StoredTensor scale;                      // a row for each row of blocks
  std::optional<StoredTensor> zero_point;  // as scale
  Block block;

  void compute(int64_t first, int64_t count, std::span<float> values) const;
  std::vector<StoredTensor> beside() const {
    return zero_point ? std::vector{scale, *zero_point} : std::vector{scale};
  }
};

// int8 has no place among the types that convert; here it does.
void read_values(const StoredTensor& tensor, int64_t first, int64_t count, std::span<float> out) {
  if (tensor.spec.dtype != DType::i8) return read_row_values(tensor, first, count, out);
  std::vector<std::byte> bytes(static_cast<size_t>(count * tensor.row_bytes()));
  read_rows(tensor, first, count, bytes);
  std::ranges::transform(bytes, out.begin(),
                         [](std::byte byte) { return static_cast<float>(static_cast<int8_t>(byte)); });
}

void Scaled::compute(int64_t first, int64_t count, std::span<float> values) const {
  const int64_t columns = weight.row_elements();
  std::vector<float> scales(static_cast<size_t>(blocks_in(columns, block.columns))), zeros(scales.size());
  read_values(weight, first, count, values);
  int64_t loaded = -1;
  for (int64_t i = 0; i < count; i++) {
    if (const int64_t row = (first + i) / block.rows; row != loaded) {
      read_values(scale, row, 1, scales);
      if (zero_point) read_values(*zero_point, row, 1, zeros);
      loaded = row;
    }
    float* value = values.data() + i * columns;
    for (int64_t column = 0, b = 0; column < columns; column += block.columns, b++) {
      const float factor = scales[static_cast<size_t>(b)], zero = zeros[static_cast<size_t>(b)];
      const int64_t end = std::min(columns, column + block.columns);
      if (zero_point)
        for (int64_t c = column; c < end; c++) value[c] -= zero;
      for (int64_t c = column; c < end; c++) value[c] *= factor;
    }
  }
}

class Dequantizer {
 public:
  Dequantizer(const ModelConfig& config, const Json& quantization, const Checkpoint& checkpoint)
      : integers_(json_string(quantization, "quant_method", config.where) == kCompressed),
        dtype_(config.dtype.value_or(DType::bf16)),
        blocks_(named_blocks(quantization, config.where)) {
    for (const StoredTensor& tensor : checkpoint.tensors()) {
      const std::string& name = tensor.spec.name;
      if (name.ends_with("_g_idx"))
        refuse(checkpoint.path().string(), fmt::format("\"{}\": columns in another order", name));
      if (is_beside(name)) beside_.emplace(name, tensor);
    }
  }

  std::vector<StoredTensor> operator()(const StoredTensor& tensor) const {
    if (is_beside(tensor.spec.name)) return {};
    if (!is_eight_bit(tensor.spec.dtype)) return {tensor};
    auto scaled = std::make_shared<Scaled>(read(tensor));
    StoredTensor out = tensor;
    out.spec.dtype = dtype_;
    out.derivation = std::make_shared<Derivation>(
        Derivation{tensor, fmt::format(" ({}, scaled)", info(tensor.spec.dtype).name()),
                   [scaled](int64_t first, int64_t count, std::span<float> values) {
                     scaled->compute(first, count, values);
                   },
                   scaled->beside()});
    return {std::move(out)};
  }

 private:
  Scaled read(const StoredTensor& weight) const {
    const std::string& name = weight.spec.name;
    const std::string file = weight.file->file().path().string();
    if (weight.spec.shape.size() != 2 || (weight.spec.dtype == DType::i8 && !integers_))
      refuse(file,
             fmt::format("\"{}\" {} {}", name, info(weight.spec.dtype).name(), to_string(weight.spec.shape)));
    const StoredTensor* scale = find(name + "_scale_inv");
    if (!scale) scale = find(name + "_scale");
    if (!scale)
      fail(ErrorKind::input,
           "{}: tensor \"{}\" is {}, and there is neither \"{}_scale\" nor \"{}_scale_inv\"", file, name,
           info(weight.spec.dtype).name(), name, name);
    if (!is_float(scale->spec.dtype))
      refuse(file, fmt::format("\"{}\" is {}", scale->spec.name, info(scale->spec.dtype).name()));
    Scaled out = {weight, *scale, {}, block_of(weight, *scale)};
    if (const StoredTensor* zero = find(name + "_zero_point")) {
      if (!is_float(zero->spec.dtype) && zero->spec.dtype != DType::i8)
        refuse(file, fmt::format("\"{}\" is {}", zero->spec.name, info(zero->spec.dtype).name()));
      if (zero->spec.elements() != scale->spec.elements() || zero->rows() != scale->rows())
        fail(ErrorKind::input, "{}: \"{}\" is {}, and \"{}\" is {}", file, zero->spec.name,
             to_string(zero->spec.shape), scale->spec.name, to_string(scale->spec.shape));
      out.zero_point = *zero;
    }
    return out;
  }

  const StoredTensor* find(const std::string& name) const {
    const auto found = beside_.find(name);
    return found == beside_.end() ? nullptr : &found->second;
  }

  // One scale for all, one a row, or one for each block of a size that config.json names.
  Block block_of(const StoredTensor& weight, const StoredTensor& scale) const {
    const int64_t rows = weight.spec.shape[0], columns = weight.spec.shape[1];
    const Shape& grid = scale.spec.shape;
    if (scale.spec.elements() == 1) return {std::max<int64_t>(1, rows), std::max<int64_t>(1, columns)};
    if (grid == Shape{rows} || grid == Shape{rows, 1}) return {1, std::max<int64_t>(1, columns)};
    for (const Block& block : blocks_)
      if (grid == Shape{blocks_in(rows, block.rows), blocks_in(columns, block.columns)}) return block;
    std::string known;
    for (const Block& block : blocks_)
      known += fmt::format(", or one for {} x {}", block.rows, block.columns);
    fail(ErrorKind::input, "{}: \"{}\" is {}, and the weight is {}; expected one scale, one a row{}",
         scale.file->file().path().string(), scale.spec.name, to_string(grid), to_string(weight.spec.shape),
         known);
  }

  bool integers_;  // int8 weights are numbers, not pairs of smaller ones
  DType dtype_;
  std::vector<Block> blocks_;
  std::unordered_map<std::string, StoredTensor> beside_;
};

}  // namespace

const Json* find_quantization(const Json& config) {
  for (const char* key : kKeys)
    if (const auto found = config.find(key); found != config.end() && !found->is_null()) return &*found;
  return nullptr;
}

void check_quantization(const Json& quantization, const std::string& where) {
  if (!quantization.is_object()) refuse(where, "in a way that it does not name");
  const auto method = json_string(quantization, "quant_method", where);
  if (!method) refuse(where, "in a way that it does not name");
  if (std::ranges::find(kMethods, *method) == kMethods.end()) refuse(where, *method);
  if (*method == kCompressed) check_compressed(quantization, where);
}

void dequantize_weights(ModelConfig& config, Checkpoint& checkpoint) {
  const Json* quantization = find_quantization(config.raw);
  if (!quantization) return;
  checkpoint.transform(Dequantizer(config, *quantization, checkpoint));
  for (const char* key : kKeys) config.raw.erase(key);
}

}  // namespace moerge
