#pragma once
// What adapter_config.json says that matters after training (PEFT, tuners/lora/config.py).

#include <filesystem>
#include <map>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/json.h"

namespace moerge {

/// A value for the modules whose name ends as a regular expression says.
struct ModulePattern {
  std::string text;
  std::optional<std::regex> expression;  // empty: only letters, and points that match anything
  double value;
};

struct AdapterConfig {
  int64_t rank;
  double alpha;
  bool rank_stabilised;  // use_rslora: alpha / sqrt(rank) in place of alpha / rank
  std::vector<ModulePattern> rank_pattern, alpha_pattern;  // the first that matches counts
  std::vector<std::string>
      modules_to_save;       // trained whole, apart from what they were tied to; ends of names
  bool ensure_weight_tying;  // but for these: embeddings serve as the output too
  /// Rows of embeddings that were trained, by the end of the module's name.
  std::map<std::string, std::vector<int64_t>> token_rows;
  std::string where;  // the file
};

/// Reads FOLDER/adapter_config.json. Throws unsupported for every kind of adapter and of LoRA whose merge is
/// not W + scale * B A.
AdapterConfig read_adapter_config(const std::filesystem::path& folder);

/// The same from a parsed document.
AdapterConfig parse_adapter_config(const Json& json, const std::string& where);

/// For the module's name in the base model ("model.layers.0.mlp.up_proj"). Throws input for a rank that makes
/// no sense.
int64_t rank_of(const AdapterConfig& config, std::string_view module);
double scale_of(const AdapterConfig& config, std::string_view module);

}  // namespace moerge
