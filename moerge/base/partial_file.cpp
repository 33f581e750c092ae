#include "moerge/base/partial_file.h"

#include <cstdio>

#include "moerge/base/error.h"

namespace moerge {
namespace fs = std::filesystem;

PartialFile::PartialFile(fs::path target)
    : target_(std::move(target)),
      partial_(target_.parent_path() / ("." + target_.filename().string() + ".moerge-partial")),
      file_(File::create_locked(partial_)) {}

PartialFile::~PartialFile() {
  if (committed_) return;
  std::error_code ignored;
  fs::remove(partial_, ignored);
}

void PartialFile::commit() {
  file_.sync();
  if (rename(partial_.c_str(), target_.c_str()) != 0)
    fail_errno("cannot rename the finished file to", target_.string());
  committed_ = true;
  sync_folder(target_.parent_path());
}

}  // namespace moerge
