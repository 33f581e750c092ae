#pragma once
// The YAML of mergekit-yaml: a method, and models or slices of models with their parameters.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/yaml.h"
#include "moerge/merge/parameters.h"
#include "moerge/merge/tokenizer_settings.h"
#include "moerge/tensor/dtype.h"

namespace moerge {

/// A model, and which of its layers: all where no range is said.
struct MergeSource {
  std::string model;
  std::optional<std::pair<int64_t, int64_t>> layers = {};  // [first, end)
  ParameterSettings parameters = {};
  Place place = {};
};

/// Layers of the output: one model's, or several models' merged. All sources have equally many.
struct MergeSlice {
  std::vector<MergeSource> sources;
  std::string base_model = {};  // instead of the document's
  ParameterSettings parameters = {};
  Place place = {};
};

struct MergeConfig {
  const MergeMethod* method = nullptr;
  std::string base_model;
  /// `models` is one slice of all layers.
  std::vector<MergeSlice> slices;
  bool whole_models = false;            // the document has "models"
  ParameterSettings module_parameters;  // of the one entry of "modules", before the document's
  ParameterSettings parameters;
  std::optional<DType> dtype;      // in which is computed
  std::optional<DType> out_dtype;  // in which is written; empty: as computed

  std::string name;  // by which other documents of the file mean its result; may be empty
  std::optional<TokenizerSettings> tokenizer;  // empty: the base's, and every model has its own rows
  std::string chat_template;                   // as written; empty: the tokenizer's own files, byte for byte
  Place chat_template_place;

  std::string file;                   // where it was read from, for messages
  std::string yaml;                   // the whole file
  std::vector<std::string> warnings;  // unknown keys and the like

  /// Every model that is merged, the base first, in the document's order, each once.
  std::vector<std::string> models() const;
  /// Those and the ones that only "tokenizer" names.
  std::vector<std::string> all_models() const;
};

inline constexpr int64_t kMaxMergeConfig = 1 << 20;  // bytes of a YAML file

/// Reads and checks a document as far as it can be checked without a model. Throws config with all problems
/// at once, one "FILE:LINE:COLUMN: message" a line.
MergeConfig parse_merge_config(std::string_view yaml, const std::string& file);

/// The same of a document that is parsed; what is wrong becomes a problem.
MergeConfig read_merge_config(const YamlNode& root, const std::string& file, YamlProblems& problems);

/// Whether a document is one of these, and not of a mixture of experts.
bool is_merge_config(const YamlNode& root);

}  // namespace moerge
