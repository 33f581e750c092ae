#pragma once
// Where the items of a task come from: files of the user's, or a data set of the Hub.

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moerge/base/progress.h"
#include "moerge/eval/data_files.h"
#include "moerge/eval/items.h"
#include "moerge/eval/task.h"
#include "moerge/hub/hub.h"
#include "moerge/hub/settings.h"

namespace moerge {

/// Rows of a file: .jsonl (.ndjson); .parquet; .json with a list of objects, alone or as the member "data",
/// "rows" or "examples" of an object, or with an object a line. Items are counted from `first`. Throws input
/// naming file and row.
std::vector<Document> read_documents(const std::filesystem::path& file, const std::string& task,
                                     size_t first = 0);

struct DataOptions {
  /// The user's files: TASK.jsonl (.json, .parquet) and TASK.fewshot.jsonl; of a task A_B also A/B.jsonl, or
  /// the rows of A.jsonl whose "subject" is B; else DATASET_PATH, a copy of the data set's repository.
  /// Nothing is fetched then. Empty: the Hub's cache, then the Hub.
  std::filesystem::path folder = {};
  HubSettings hub = {};
};

/// Repositories that several tasks read are listed once.
class DataSource {
 public:
  DataSource(DataOptions options, Reporter& reporter);
  ~DataSource();

  /// The splits that `shots` needs. Throws config when a configuration or split is nowhere, with those that
  /// there are, and what the Hub says when it refuses (a login, say); input for rows that are none.
  TaskDocuments load(const Task& task, int64_t shots);

 private:
  struct DataSet {
    HubRepository repository;
    std::unique_ptr<DataFiles> files;
    bool is_program;  // that makes its rows
  };
  /// Files of the splits; nothing where none is needed.
  struct Splits {
    std::vector<std::filesystem::path> test, fewshot;
    std::string commit = {};
  };

  std::optional<TaskDocuments> in_folder(const Task& task, bool with_fewshot) const;
  Splits in_files(const Task& task, bool with_fewshot) const;
  Splits in_copy(const Task& task, bool with_fewshot) const;
  Splits on_hub(const Task& task, bool with_fewshot);
  const DataSet& open(const HubName& name, DataLayout layout);
  HubRepository find(const HubName& name);
  std::vector<std::filesystem::path> bring(const HubRepository& repository,
                                           const std::vector<std::string>& paths, bool is_all);
  Hub& hub();

  DataOptions options_;
  Reporter& reporter_;
  std::unique_ptr<Hub> hub_;
  std::map<HubName, DataSet> known_;
};

}  // namespace moerge
