#pragma once
// The model families that become a GGUF, as data: which llama.cpp architecture they are, what its tensors are
// called and how large they are, and which tensors of a checkpoint fill them.
// Source: llama.cpp, gguf-py/gguf/tensor_mapping.py, conversion/{llama,qwen,deepseek}.py, and
// src/models/*.cpp for the shapes and for what may be absent.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/export/config_class.h"

namespace moerge {

/// Sizes that tensors are made of.
enum class Extent {
  none,  // fewer dimensions
  one,
  vocab,
  hidden,
  ffn,
  q_rows,   // heads * head_dim
  kv_rows,  // key and value heads * head_dim
  head_dim,
  experts,
  expert_ffn,
  shared_ffn,  // of the shared expert, or all of them side by side
};

enum TensorFlag : unsigned {
  kHasBias = 1,     // llama.cpp reads a bias beside it, if there is one
  kUnlessTied = 2,  // may be absent when the embeddings serve as output
};

/// A tensor of a GGUF. ".weight" ends its name; a ".bias" beside it has as many elements as it has rows.
struct GgufTensorRow {
  enum class Place { outside, every_layer, dense_layer, moe_layer };
  std::string_view name;  // after "blk.N." when it lies in a layer
  Place place;
  Extent shape[3];     // slowest dimension first
  unsigned flags = 0;  // of TensorFlag
};

/// A tensor of a checkpoint and where it goes.
struct CheckpointRow {
  enum class Holds { one, expert, stack, fused_stack };
  std::string_view name;    // after "model." and "layers.N.", without ".weight"; "{}" is an expert's number
  std::string_view target;  // GgufTensorRow::name
  Holds holds = Holds::one;
};

struct ExportFamily {
  std::string_view model_type, class_name, arch;
  const ConfigClass* config_class;     // null: not in transformers, its config.json is used as it is
  bool permuted;                       // q and k rows go from halves to pairs, head by head
  const char* expert_count = nullptr;  // its key in config.json; null: a dense family
  const char* expert_ffn = nullptr;    // likewise
  std::vector<GgufTensorRow> tensors;
  std::vector<CheckpointRow> sources;
};

struct TensorMapping {  // where a checkpoint tensor goes in a GGUF
  enum class Part { whole, first_half, second_half };
  std::string name;  // "blk.3.ffn_gate_exps.weight"; empty: dropped (rotary_emb.inv_freq)
  int64_t layer = -1;
  int64_t expert = -1;      // >= 0: this tensor is expert number `expert` of a stacked one
  Part part = Part::whole;  // of a fused gate_up: rows of each expert's matrix
  bool stacked = false;     // the checkpoint tensor holds all experts: [experts, rows, columns]
  bool rotary_q = false, rotary_k = false;  // rows to be permuted per head
  bool keep_f32 = false;                    // norms, biases, routers and the shared expert's gate
};

/// Null for a model_type that cannot be exported.
const ExportFamily* find_export_family(std::string_view model_type);
/// The family of a whole config.json: a DeepSeek-MoE whose chosen experts' weights sum to 1 is not what
/// llama.cpp's deepseek computes, but exactly what its granitemoe does. Null as above.
const ExportFamily* choose_export_family(const Json& config, const std::string& where);
std::span<const ExportFamily* const> export_families();

/// One mapping, or two for a fused gate_up_proj; empty: this family has no place for a tensor of this name in
/// a model of so many layers. Names may lack the "model." in front, stacks of experts the ".weight" behind.
std::vector<TensorMapping> map_tensor(const ExportFamily& family, std::string_view checkpoint_name,
                                      int64_t layers);

}  // namespace moerge
