#pragma once
// An output folder that appears whole or not at all.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace moerge {

/// Built beside its target, in ".NAME.moerge-partial", and renamed at the end. Until commit() the target is
/// untouched. Runs for one target exclude each other by a lock on the partial folder, unless they work on it
/// together. What an earlier run left there is still there; so is, after keep(), what this one leaves.
class OutputFolder {
 public:
  enum class Use { alone, together };

  /// Throws usage when the target exists and is not empty, unless `overwrite`; a folder that holds no model
  /// or adapter (no config.json, no adapter_config.json) is never overwritten. Throws io when another run has
  /// it.
  OutputFolder(const std::filesystem::path& target, bool overwrite, Use use = Use::alone);
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  /// Removes the partial folder, unless it was committed, is to be kept, or others work on it too.
  ~OutputFolder();

  const std::filesystem::path& path() const { return partial_; }
  const std::filesystem::path& target() const { return target_; }
  bool is_committed() const { return committed_; }
  /// Removes all that is in it but regular files, of this one name, that `keep` is true for.
  void clear(const std::function<bool(const std::string& name)>& keep);
  /// Whether the destructor leaves what is there.
  void keep(bool keep) { kept_ = keep; }
  /// Of a folder that is to be kept: not when nothing is in it.
  void remove_if_empty();
  /// Returns when every file in it survives a power cut.
  void sync() const;
  /// Gives the folder its name; it survives a power cut then, if sync() was called.
  void commit();

 private:
  void lock(Use use, bool& made);

  std::filesystem::path target_, partial_;
  int lock_ = -1;
  bool overwrite_, kept_, committed_ = false;
};

/// Where an unfinished run's work is, or would be.
std::filesystem::path partial_folder(const std::filesystem::path& target);

/// Disk space of what an unfinished run has left beside `target`, 0 when there is nothing.
int64_t unfinished_bytes(const std::filesystem::path& target);

/// The refusals of OutputFolder's constructor, without touching anything.
void check_output_folder(const std::filesystem::path& target, bool overwrite);

}  // namespace moerge
