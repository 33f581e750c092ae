#pragma once
// What is known about a model that becomes a GGUF, whether its folder exists already or is only planned.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/formats/gguf.h"

namespace moerge {

struct ExportSource {
  std::filesystem::path folder;                   // where tokenizer files and generation_config.json lie
  Json config;                                    // config.json of the model itself
  std::string card;                               // README.md, may be empty
  std::string name;                               // of the output model, used when nothing better is known
  const GgufMetadata* tokenizer = nullptr;        // of a GGUF file that has it instead of the folder
  const GgufMetadata* general = nullptr;          // of the GGUF file that is written anew
  std::optional<std::string> chat_template = {};  // instead of the tokenizer's own
  std::string where = {};                         // what its config.json is called in messages
  std::vector<std::string> expert_names = {};     // of a mixture, for who shows its routing; may be none
};

/// Counted over the tensors of the GGUF.
struct ParameterCounts {
  int64_t total = 0;
  int64_t shared = 0;   // outside the experts
  int64_t expert = 0;   // of one expert, over all layers
  int64_t experts = 0;  // per layer; 0: none
};

}  // namespace moerge
