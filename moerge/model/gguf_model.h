#pragma once
// What a GGUF file's metadata and tensors are in a model folder's terms: config.json, and tensors by the
// names that transformers gives them. The keys: llama.cpp, gguf-py/gguf/constants.py and conversion/.

#include <string>

#include "moerge/formats/checkpoint.h"
#include "moerge/formats/gguf_files.h"
#include "moerge/model/architecture.h"
#include "moerge/model/config.h"

namespace moerge {

/// "blk.{}.attn_q.weight": what llama.cpp calls a role's tensor in every family (of FFNs, the dense ones);
/// empty for Role::ignored.
std::string_view gguf_weight_name(Role role);

/// config.json as it would stand in the folder that the file was converted from. Numbers that GGUF keeps as
/// float32 get their shortest decimal again; torch_dtype is the type of the matrices, float16 where they are
/// quantised (closer to their values than bfloat16). Throws unsupported for models that cannot be read
/// (adapters, mixtures with dense layers, rope scaling without a counterpart), input where a key is missing
/// or makes no sense.
Json gguf_config_json(const GgufFiles& files);

/// The same, read. Throws what parse_model_config() throws as well.
ModelConfig gguf_model_config(const GgufFiles& files);

/// The weights by transformers' names, one tensor an expert and matrix. Throws unsupported for a tensor that
/// the family does not have, input for a stack of experts of another shape than the metadata says.
Checkpoint gguf_checkpoint(GgufFiles files, const ModelConfig& config);

}  // namespace moerge
