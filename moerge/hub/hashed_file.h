#pragma once
// A file of an upload as it was when it was hashed, so that nothing else is sent under its hash.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "moerge/base/progress.h"
#include "moerge/hub/hub.h"
#include "moerge/hub/upload.h"

namespace moerge {

struct HashedFile {
  const UploadFile* file;
  bool large;      // goes to LFS
  std::string id;  // sha256 of a large one, git's name of another

  struct State {
    int64_t size = 0, changed_ns = 0;
    uint64_t inode = 0;
    auto operator<=>(const State&) const = default;
  };
  State state = {};

  /// Throws input when the file is another now.
  void check_unchanged() const;
  /// The whole content; throws input when it is not what was hashed.
  std::string read() const;
};

/// Adds the bytes to `progress` while it reads.
HashedFile hash_file(const UploadFile& file, bool large, Progress& progress);

/// Several at once. `large` says of each whether it goes to LFS.
std::vector<HashedFile> hash_files(const std::vector<const UploadFile*>& files,
                                   const std::function<bool(const UploadFile&)>& large, Reporter& reporter);

/// The first `count` bytes, fewer where there are no more.
std::string read_start(const UploadFile& file, int64_t count);

/// Does the Hub have this very content under this name?
bool is_same(const HashedFile& file, const HubFile& there);

}  // namespace moerge
