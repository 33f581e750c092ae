#pragma once
// The folder of an adapter, as PEFT and moerge read it: adapter_config.json, adapter_model.safetensors and
// README.md.

#include <filesystem>
#include <string>

#include "moerge/base/json.h"
#include "moerge/base/output_folder.h"
#include "moerge/base/progress.h"
#include "moerge/merge/extract_lora.h"

namespace moerge {

struct LoraFolderOptions {
  std::filesystem::path out;
  bool overwrite = false, write_card = true;
  int threads = 1;
};

/// Refusals that need no work: an output that exists, lies in a source, or does not fit on the disk.
void check_lora_folder(const LoraPlan& lora, const LoraFolderOptions& options);

/// Decomposes and writes; the folder appears whole or not at all.
void build_lora(LoraPlan& lora, const LoraFolderOptions& options, Reporter& reporter);

/// adapter_config.json of the ranks as they are.
Json adapter_config_json(const LoraPlan& lora);

/// README.md, after decompose(). `name`: its title.
std::string lora_card(const LoraPlan& lora, const std::string& name);

/// What is written, for people and for scripts; how close it comes where `decomposed`, else ranks are the
/// most that they can be.
std::string lora_text(const LoraPlan& lora, bool decomposed);
/// A line for each module.
std::string lora_module_text(const LoraPlan& lora, bool decomposed);
Json lora_json(const LoraPlan& lora, bool decomposed);

}  // namespace moerge
