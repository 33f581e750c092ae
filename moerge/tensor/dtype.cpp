#include "moerge/tensor/dtype.h"

#include <array>
#include <utility>

namespace moerge {
namespace {

constexpr std::array<DTypeInfo, 15> kTable = {{
    {DType::f64, "F64", "float64", 8},
    {DType::f32, "F32", "float32", 4},
    {DType::f16, "F16", "float16", 2},
    {DType::bf16, "BF16", "bfloat16", 2},
    {DType::f8_e4m3, "F8_E4M3", "float8_e4m3fn", 1},
    {DType::f8_e5m2, "F8_E5M2", "float8_e5m2", 1},
    {DType::i64, "I64", "int64", 8},
    {DType::i32, "I32", "int32", 4},
    {DType::i16, "I16", "int16", 2},
    {DType::i8, "I8", "int8", 1},
    {DType::u64, "U64", "uint64", 8},
    {DType::u32, "U32", "uint32", 4},
    {DType::u16, "U16", "uint16", 2},
    {DType::u8, "U8", "uint8", 1},
    {DType::boolean, "BOOL", "bool", 1},
}};

constexpr std::array<std::pair<std::string_view, DType>, 7> kAliases = {{
    {"bf16", DType::bf16},
    {"fp16", DType::f16},
    {"f16", DType::f16},
    {"half", DType::f16},
    {"fp32", DType::f32},
    {"f32", DType::f32},
    {"float", DType::f32},
}};

constexpr bool in_order() {
  for (size_t i = 0; i < kTable.size(); i++)
    if (static_cast<size_t>(kTable[i].dtype) != i) return false;
  return true;
}
static_assert(in_order(), "info() indexes the table by DType");

}  // namespace

std::span<const DTypeInfo> dtype_table() { return kTable; }

const DTypeInfo& info(DType dtype) { return kTable[static_cast<size_t>(dtype)]; }

const DTypeInfo* find_dtype(std::string_view name) {
  if (name.starts_with("torch.")) name.remove_prefix(6);
  for (const DTypeInfo& row : kTable)
    if (row.safetensors == name || row.torch == name) return &row;
  for (const auto& [alias, dtype] : kAliases)
    if (alias == name) return &info(dtype);
  return nullptr;
}

bool is_float(DType dtype) {
  return dtype == DType::f64 || dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

bool is_weight_type(DType dtype) { return is_float(dtype) && dtype != DType::f64; }

}  // namespace moerge
