#pragma once
// Which files of a data set's repository hold which split, as the `datasets` library finds them
// (https://huggingface.co/docs/datasets/repository_structure).

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moerge {

/// Does a path match a pattern as fsspec's glob has them: "*" stays in its folder, "**" as a whole part means
/// any folders. Throws config for a pattern that is none.
bool matches_glob(std::string_view path, std::string_view pattern);

struct SplitFiles {
  std::string split;
  std::vector<std::string> files;  // in the order in which their rows follow
};

/// How a repository is laid out.
enum class DataLayout {
  repository,  // README.md says it ("configs"), or the names of files and folders
  exported,    // the branch refs/convert/parquet: CONFIGURATION/SPLIT/0000.parquet
};

class DataFiles {
 public:
  /// `paths`: all files. `card`: README.md, may be empty. `where` names the repository. Throws config for a
  /// card that cannot be read.
  DataFiles(std::vector<std::string> paths, std::string_view card, DataLayout layout, std::string where);

  bool has_card_configurations() const { return !configurations_.empty(); }

  /// Of a configuration, or of the default one when the name is empty. Without "configs" in the card a folder
  /// of that name is one too. Throws config with the names that there are.
  std::vector<SplitFiles> splits(const std::string& configuration) const;

  /// The files of a split that moerge can read. Throws config with the names of those that there are,
  /// unsupported for files in another format.
  std::vector<std::string> files(const std::string& configuration, const std::string& split) const;

 private:
  struct Configuration {
    std::string name, folder;                                            // "": the whole repository
    std::vector<std::pair<std::string, std::vector<std::string>>> data;  // patterns by split
    bool is_default = false;
  };

  void read_card(std::string_view card);
  const Configuration& find(const std::string& name) const;
  std::vector<std::string> matching(const std::string& folder,
                                    const std::vector<std::string>& patterns) const;
  std::vector<SplitFiles> by_names(const std::string& folder) const;
  std::vector<SplitFiles> by_folders(const std::string& folder) const;
  std::vector<std::string> folders() const;

  std::vector<std::string> paths_;  // sorted
  DataLayout layout_;
  std::string where_;
  std::vector<Configuration> configurations_;  // that the card has
};

/// .jsonl, .ndjson, .json, .parquet
bool is_data_file(std::string_view path);

}  // namespace moerge
