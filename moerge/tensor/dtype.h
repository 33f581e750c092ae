#pragma once
// Element types of checkpoints (safetensors, PyTorch and GGUF): one table row per type.

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
  boolean,
  // ggml's block types: `block` neighbouring elements of a row share `bytes` bytes.
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq1_s,
  iq1_m,
  iq2_xxs,
  iq2_xs,
  iq2_s,
  iq3_xxs,
  iq3_s,
  iq4_nl,
  iq4_xs,
  tq1_0,
  tq2_0,
  mxfp4,
  q1_0,
  q2_0
};

struct DTypeInfo {
  DType dtype;
  std::string_view safetensors;  // the spelling in a safetensors header, empty where it has none
  std::string_view torch;        // the spelling in config.json and YAML files, empty where it has none
  int bytes;                     // per block
  int block;                     // elements
  std::string_view gguf;         // the spelling of GGUF tools, empty where the format has no such type
  int gguf_id;                   // its number in a GGUF file (ggml.h), or -1

  /// The spelling for messages.
  std::string_view name() const { return torch.empty() ? gguf : torch; }
};

std::span<const DTypeInfo> dtype_table();
const DTypeInfo& info(DType dtype);

/// By either spelling, or null. "torch.bfloat16" and the short "bf16", "fp16", "half", "float" are
/// understood.
const DTypeInfo* find_dtype(std::string_view name);
/// By its number in a GGUF file, or null.
const DTypeInfo* find_gguf_dtype(int64_t id);

/// Bytes of `elements` elements, a whole number of blocks.
int64_t byte_size(DType dtype, int64_t elements);

/// f64, f32, f16 and bf16: the types that can be converted into each other.
bool is_float(DType dtype);
/// f32, f16 and bf16: the types that models are written in.
bool is_weight_type(DType dtype);
/// ggml's block types.
bool is_quantized(DType dtype);

}  // namespace moerge
