#pragma once
// README.md of a repository of GGUF files.

#include <filesystem>
#include <string>
#include <vector>

#include "moerge/hub/card.h"

namespace moerge {

struct GgufCardOptions {
  std::string repository = {};  // "user/name-GGUF" where the files will lie; empty: not known
  std::string source_repository =
      {};                    // "user/name" that they were made of; empty: what the files say, if they do
  CardLicense license = {};  // empty: what the files say
  std::string title = {};    // empty: the repository's name, or the folder's
  std::vector<std::string> languages = {};
};

/// The card of the .gguf files in a folder: what each is for, which model they are, how to run them. Reads
/// their headers. Throws input when the folder holds none, and what opening them throws.
Card make_gguf_card(const std::filesystem::path& folder, const GgufCardOptions& options);
/// The same, rendered.
std::string gguf_card(const std::filesystem::path& folder, const GgufCardOptions& options);

}  // namespace moerge
