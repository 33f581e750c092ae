#pragma once
// A YAML of several documents that build on each other: a document with a "name" is a merge whose result the
// others may name as a model. Nothing of it is written: its tensors are computed when they are read.

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/merge/planner.h"

namespace moerge {

class MergeStages {
 public:
  /// Reads and checks all documents as far as that can be done without a model: names, cycles, and which of
  /// them is the result: the one without a name, or else the one that no other uses. Throws config with all
  /// problems at once.
  MergeStages(std::string_view yaml, const std::string& file);

  /// The document of the result is a mixture of experts, for `moerge moe`.
  bool makes_mixture() const { return !documents_[result_].merge; }
  /// Its place in the file, for a reader of such documents.
  const YamlNode& result_document() const { return documents_[result_].root; }
  /// Else what it merges.
  const MergeConfig& result() const { return *documents_[result_].merge; }

  /// One of the documents has this name.
  bool is_stage(const std::string& reference) const { return find(reference) != nullptr; }

  /// Every model that the documents name and that is none of them, each once.
  std::vector<std::string> models() const;

  /// Opens the stages by their names, everything else with `open`. Each stage is planned once; its warnings
  /// go to `warnings`, which has to outlive the result, as this object has.
  OpenModel with_stages(OpenModel open, const MergeOptions& options,
                        std::vector<std::string>& warnings) const;

 private:
  struct Document {
    YamlNode root;
    std::optional<MergeConfig> merge;
    std::string name = {};
    std::vector<std::string> uses = {};  // models, as the document names them
  };
  const Document* find(const std::string& name) const;
  void check_names(YamlProblems& problems) const;
  void find_result(YamlProblems& problems);

  std::vector<Document> documents_;
  size_t result_ = 0;
};

}  // namespace moerge
