#pragma once
// The files that a plan reads, and whether they stay what they were.

#include <filesystem>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/plan/plan.h"

namespace moerge {

/// Every file that a plan reads, once.
std::vector<const MappedFile*> list_source_files(const Plan& plan);

class SourceWatch {
 public:
  /// As they are now. Throws input for one whose size is not what it was when it was opened.
  explicit SourceWatch(const Plan& plan);

  /// Throws input when the content of one has changed since; a file that was removed or replaced is still
  /// read as it was.
  void check() const;

  /// [{file, bytes, changed}], by canonical path: what a later run compares with.
  Json identity() const;

 private:
  struct Watched {
    const MappedFile* file;
    FileStamp stamp;
  };
  std::vector<Watched> files_;
};

/// The first file whose entry differs between two identities, or empty.
std::string find_changed_source(const Json& before, const Json& now);

}  // namespace moerge
