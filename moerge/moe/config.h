#pragma once
// The YAML of mergekit-moe: which base, which experts, which prompts.

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/moe/text_files.h"
#include "moerge/tensor/dtype.h"

namespace moerge {

inline constexpr int64_t kDefaultMaxTokens = 16384;

struct ExpertConfig {
  std::string source_model;
  std::vector<std::string> positive_prompts, negative_prompts;
  std::vector<TextSource> data;            // files and folders of text, further prompts
  int64_t max_tokens = kDefaultMaxTokens;  // of the data
  double noise_scale = 0;                  // standard deviation of noise added to the FFN weights; 0: none
  double residual_scale = 1;               // factor on ffn_down
};

/// Where the output's chat template comes from. A text that could mean several things means the first of
/// these from `base` on; a file of such a name is written "./NAME".
struct ChatTemplateChoice {
  enum class Kind { unchanged, base, expert, built_in, file };
  Kind kind = Kind::unchanged;  // the base's files, byte for byte
  std::string value;            // as written
  size_t expert = 0;            // its place in the list
  std::filesystem::path file;
  std::string place;  // "FILE:LINE:COLUMN"
};

struct MoeConfig {
  std::string base_model;
  std::vector<ExpertConfig> experts, shared_experts;
  std::string gate_mode = "hidden";
  std::string gate_mode_reason;         // why "auto" became this mode; empty: the mode was named
  std::optional<DType> dtype;           // of the output; empty: the base model's
  int64_t experts_per_token = 0;        // 0: not said
  std::string experts_per_token_place;  // "FILE:LINE:COLUMN" of it, or of the experts where it is not said
  std::string architecture;             // output family, empty: chosen
  std::string architecture_place;       // "FILE:LINE:COLUMN" of it
  ChatTemplateChoice chat_template;

  std::string file;                   // where it was read from, for messages
  std::string yaml;                   // the document itself
  std::vector<std::string> warnings;  // unknown keys and the like
};

inline constexpr int64_t kMaxMoeConfig = 1 << 20;  // bytes of a YAML file

/// Reads and checks a document as far as it can be checked without a model; `file` need not exist, but what
/// is relative is relative to its folder. Throws config with all problems at once, one "FILE:LINE:COLUMN:
/// message" a line. `allow_all_same`: experts may all be one model.
MoeConfig parse_moe_config(std::string_view yaml, const std::string& file, bool allow_all_same);

/// The same of the document in a finished folder: what it names on somebody's disk need not be there.
MoeConfig parse_finished_config(std::string_view yaml, const std::string& file);

/// The document for a model card: of what "data" names it has the file names alone, not where they lie on
/// somebody's disk.
std::string public_yaml(const MoeConfig& config);

/// Once the base is known: fills in experts_per_token where it was not said (`existing`: of a mixture as the
/// base, whose number is kept; 2 for a dense base) and throws config when there are fewer experts than that.
/// `existing_experts` are the base's own.
void settle_experts_per_token(MoeConfig& config, int64_t existing_experts, int64_t existing);

}  // namespace moerge
