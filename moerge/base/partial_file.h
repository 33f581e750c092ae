#pragma once
// A file that appears whole or not at all: OutputFolder's promise for a single file.

#include <filesystem>

#include "moerge/base/file.h"

namespace moerge {

/// Written as ".NAME.moerge-partial" beside its target and renamed by commit(); without it the destructor
/// removes it. A leftover of a killed run is written over; two runs for one target exclude each other by a
/// lock.
class PartialFile {
 public:
  /// Throws io when the file cannot be made or another run is writing it.
  explicit PartialFile(std::filesystem::path target);
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;
  ~PartialFile();

  File& file() { return file_; }
  const std::filesystem::path& target() const { return target_; }
  void commit();

 private:
  std::filesystem::path target_, partial_;
  File file_;
  bool committed_ = false;
};

}  // namespace moerge
