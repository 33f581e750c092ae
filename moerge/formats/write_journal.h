#pragma once
// What a run that was cut off had finished. A file of JSON lines: a head that says what is being written,
// then an entry for everything that is on the disk.

#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "moerge/base/file.h"
#include "moerge/base/json.h"

namespace moerge {

/// While it is open, no other run can open it. A line that was cut off, and all that follows a damaged one,
/// count as not written.
class WriteJournal {
 public:
  /// Throws io when it cannot be made or another run has it.
  explicit WriteJournal(const std::filesystem::path& file);

  /// As it was found: null when there was none.
  const Json& head() const { return head_; }
  std::vector<Json> entries() const;

  /// Forgets everything and writes a new head.
  void start(const Json& head);
  /// Returns when the entry is on the disk. What it claims must be there before. Any thread.
  void add(const Json& entry);

  /// The lines of a journal that others write, without locking it: head and entries.
  static std::pair<Json, std::vector<Json>> read(const std::filesystem::path& file);

 private:
  void append(const Json& line);

  File file_;
  Json head_;
  std::vector<Json> entries_;
  int64_t end_ = 0;
  mutable std::mutex guard_;
};

}  // namespace moerge
