#pragma once
// What MODEL of chat and serve is, and everything that a GGUF made of it depends on.

#include <filesystem>
#include <optional>
#include <string>

#include "moerge/cli/moe_source.h"

namespace moerge {

struct ModelSource {
  std::string given;                          // what the user wrote
  std::string name;                           // for files and clients: letters, digits, ".", "_" and "-"
  std::optional<std::filesystem::path> gguf;  // it is one, nothing has to be made
  // Of all others. Texts, long ones.
  std::string identity;  // which source: another text for another YAML or model
  std::string state;     // what it holds at the moment: paths, sizes and times of every file that is read
};

/// Throws usage with what lies nearby for a MODEL that is nowhere, and what parsing and resolving a YAML
/// throw. Opens no weights. Models that are on the Hub only are fetched.
ModelSource find_model(const std::string& model, const SourceOptions& options, Reporter& reporter);

}  // namespace moerge
