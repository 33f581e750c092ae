#include "moerge/tensor/dtype.h"

#include <array>
#include <utility>

namespace moerge {
namespace {

constexpr std::array<DTypeInfo, 39> kTable = {{
    {DType::f64, "F64", "float64", 8, 1, "F64", 28},
    {DType::f32, "F32", "float32", 4, 1, "F32", 0},
    {DType::f16, "F16", "float16", 2, 1, "F16", 1},
    {DType::bf16, "BF16", "bfloat16", 2, 1, "BF16", 30},
    {DType::f8_e4m3, "F8_E4M3", "float8_e4m3fn", 1, 1, "", -1},
    {DType::f8_e5m2, "F8_E5M2", "float8_e5m2", 1, 1, "", -1},
    {DType::i64, "I64", "int64", 8, 1, "I64", 27},
    {DType::i32, "I32", "int32", 4, 1, "I32", 26},
    {DType::i16, "I16", "int16", 2, 1, "I16", 25},
    {DType::i8, "I8", "int8", 1, 1, "I8", 24},
    {DType::u64, "U64", "uint64", 8, 1, "", -1},
    {DType::u32, "U32", "uint32", 4, 1, "", -1},
    {DType::u16, "U16", "uint16", 2, 1, "", -1},
    {DType::u8, "U8", "uint8", 1, 1, "", -1},
    {DType::boolean, "BOOL", "bool", 1, 1, "", -1},
    {DType::q4_0, "", "", 18, 32, "Q4_0", 2},
    {DType::q4_1, "", "", 20, 32, "Q4_1", 3},
    {DType::q5_0, "", "", 22, 32, "Q5_0", 6},
    {DType::q5_1, "", "", 24, 32, "Q5_1", 7},
    {DType::q8_0, "", "", 34, 32, "Q8_0", 8},
    {DType::q2_k, "", "", 84, 256, "Q2_K", 10},
    {DType::q3_k, "", "", 110, 256, "Q3_K", 11},
    {DType::q4_k, "", "", 144, 256, "Q4_K", 12},
    {DType::q5_k, "", "", 176, 256, "Q5_K", 13},
    {DType::q6_k, "", "", 210, 256, "Q6_K", 14},
    {DType::iq1_s, "", "", 50, 256, "IQ1_S", 19},
    {DType::iq1_m, "", "", 56, 256, "IQ1_M", 29},
    {DType::iq2_xxs, "", "", 66, 256, "IQ2_XXS", 16},
    {DType::iq2_xs, "", "", 74, 256, "IQ2_XS", 17},
    {DType::iq2_s, "", "", 82, 256, "IQ2_S", 22},
    {DType::iq3_xxs, "", "", 98, 256, "IQ3_XXS", 18},
    {DType::iq3_s, "", "", 110, 256, "IQ3_S", 21},
    {DType::iq4_nl, "", "", 18, 32, "IQ4_NL", 20},
    {DType::iq4_xs, "", "", 136, 256, "IQ4_XS", 23},
    {DType::tq1_0, "", "", 54, 256, "TQ1_0", 34},
    {DType::tq2_0, "", "", 66, 256, "TQ2_0", 35},
    {DType::mxfp4, "", "", 17, 32, "MXFP4", 39},
    {DType::q1_0, "", "", 18, 128, "Q1_0", 41},
    {DType::q2_0, "", "", 18, 64, "Q2_0", 42},
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
  if (name.empty()) return nullptr;
  for (const DTypeInfo& row : kTable)
    if (row.safetensors == name || row.torch == name) return &row;
  for (const auto& [alias, dtype] : kAliases)
    if (alias == name) return &info(dtype);
  return nullptr;
}

const DTypeInfo* find_gguf_dtype(int64_t id) {
  for (const DTypeInfo& row : kTable)
    if (row.gguf_id >= 0 && row.gguf_id == id) return &row;
  return nullptr;
}

int64_t byte_size(DType dtype, int64_t elements) { return elements / info(dtype).block * info(dtype).bytes; }

bool is_float(DType dtype) {
  return dtype == DType::f64 || dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

bool is_weight_type(DType dtype) { return is_float(dtype) && dtype != DType::f64; }

bool is_quantized(DType dtype) { return info(dtype).block > 1; }

}  // namespace moerge
