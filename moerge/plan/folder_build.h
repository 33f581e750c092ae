#pragma once
// A model folder that is being written: what an earlier run had finished, what this run does, and the moment
// when it appears whole.

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "moerge/base/interrupt.h"
#include "moerge/base/output_folder.h"
#include "moerge/formats/sink.h"
#include "moerge/formats/write_journal.h"
#include "moerge/plan/folder_layout.h"
#include "moerge/plan/model_folder.h"
#include "moerge/plan/source_watch.h"

namespace moerge {

/// The shards of a part, by shard: the largest first, each to the part that has least.
std::vector<bool> shards_of_part(std::span<const TensorSpec> specs, std::span<const Shard> shards,
                                 const BuildPart& part);

/// From its construction to write() or its destruction the partial folder beside OUT is this run's. What is
/// finished stays there for the next run after a signal or an error of the operating system, if anything
/// is; after a second signal, and after any other error, nothing does.
class FolderBuild {
 public:
  /// Goes on with what an earlier run left when it was made from the same plan, `recipe` and sources; else
  /// starts anew, and says why. `recipe`: whatever else decides what is written. The arguments must outlive
  /// this object.
  FolderBuild(const Plan& plan, const FolderLayout& layout, const BuildOptions& options,
              const std::string& recipe, Reporter& reporter);
  FolderBuild(const FolderBuild&) = delete;
  FolderBuild& operator=(const FolderBuild&) = delete;
  ~FolderBuild();

  /// Some of the plan's computed tensors are still to be written, by this run.
  bool computes() const;
  /// Bytes that this run, an earlier one or another part has saved under a name.
  std::optional<std::string> saved(const std::string& name) const;
  void save(const std::string& name, const std::string& bytes);

  /// Weights, small files, the comparison if it is wanted; then the folder gets its name. Of a part: its
  /// weights alone, and the folder stays. `check` is called between pieces of work and may throw.
  void write(const FolderContent& content, const std::function<void()>& check);

 private:
  void open_journal(const std::string& recipe);
  void open_parts(const Json& head);
  void write_all(const FolderContent& content, const std::function<void()>& check);
  void write_weights(const std::function<void()>& check);
  void write_small_files(const FolderContent& content);
  void verify(const FolderContent& content, const std::function<void()>& check);
  void complete();
  void remove_journals();
  void run(TensorSink& sink, int64_t bytes, const std::function<void()>& check, const char* label);
  void leave(bool may_go_on);
  void give_up();
  std::vector<bool> missing() const;  // tensors that this run has to write
  std::optional<std::string> saved_by(const BuildPart& part, const std::vector<Json>& entries,
                                      const std::string& name) const;
  bool is_larger_than_memory() const;

  const Plan& plan_;
  const FolderLayout& layout_;
  const BuildOptions& options_;
  Reporter& reporter_;
  const std::vector<TensorSpec> specs_;
  const std::vector<bool> mine_;  // by shard; empty: all
  KeepsWork keeps_;
  SourceWatch sources_;
  OutputFolder folder_;
  std::unique_ptr<WriteJournal> journal_;                        // null when parts are joined
  std::vector<std::pair<BuildPart, std::vector<Json>>> others_;  // other parts, as their journals were
};

}  // namespace moerge
