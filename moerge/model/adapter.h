#pragma once
// LoRA adapters in PEFT's layout: a folder with adapter_config.json and adapter_model.safetensors. Added to a
// model's weights as PEFT's merge_and_unload() adds them, whenever somebody reads them.

#include <filesystem>

#include "moerge/formats/checkpoint.h"
#include "moerge/model/architecture.h"
#include "moerge/model/config.h"

namespace moerge {

/// W becomes W + scale * B A, computed in float32 and rounded once to W's dtype (the model's, where W is of a
/// block type); modules that were trained whole replace the base's. A model whose embeddings were tied and
/// are no longer says so in `config`. Throws unsupported for adapters of other kinds, input for tensors that
/// do not fit the model.
void apply_adapter(const std::filesystem::path& folder, const Architecture& architecture, ModelConfig& config,
                   Checkpoint& checkpoint);

}  // namespace moerge
