#pragma once
// Element types of checkpoints: one table row per type.

#include <cstdint>
#include <span>
#include <string_view>

namespace moerge {

enum class DType : uint8_t {
  f64,
  f32,
  f16,
  bf16,
  f8_e4m3,
  f8_e5m2,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean
};

struct DTypeInfo {
  DType dtype;
  std::string_view safetensors;  // the spelling in a safetensors header
  std::string_view torch;        // the spelling in config.json and YAML files
  int bytes;                     // per element
};

std::span<const DTypeInfo> dtype_table();
const DTypeInfo& info(DType dtype);

/// By either spelling, or null. "torch.bfloat16" and the short "bf16", "fp16", "half", "float" are
/// understood.
const DTypeInfo* find_dtype(std::string_view name);

/// f64, f32, f16 and bf16: the types that can be converted into each other.
bool is_float(DType dtype);
/// f32, f16 and bf16: the types that models are written in.
bool is_weight_type(DType dtype);

}  // namespace moerge
