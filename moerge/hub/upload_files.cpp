// Which files of a folder are uploaded.

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/hub/upload.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

bool is_left_out(const std::string& name) {
  return name.starts_with('.') || name.ends_with(".moerge-partial");
}

// Throws unless the link leads to a file whose content belongs here.
void check_link(const fs::path& link, const fs::path& folder, const fs::path& cache) {
  std::error_code error;
  const fs::path target = fs::canonical(link, error);
  if (error)
    fail(ErrorKind::config, "{}: the link leads to \"{}\", which is not there", link.string(),
         fs::read_symlink(link).string());
  if (fs::is_directory(target))
    fail(ErrorKind::config, "{}: a link to a folder is not followed; put the folder itself there",
         link.string());
  if (!is_within(target, folder) && (cache.empty() || !is_within(target, cache)))
    fail(ErrorKind::config,
         "{}: the link leads out of the folder, to {}; put a copy there if it is to be published",
         link.string(), target.string());
}

}  // namespace

std::vector<UploadFile> files_to_upload(const fs::path& folder, const fs::path& cache) {
  std::vector<UploadFile> out;
  for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::recursive_directory_iterator();
       ++entry) {
    const fs::path& file = entry->path();
    if (is_left_out(file.filename().string())) {
      entry.disable_recursion_pending();
      continue;
    }
    if (entry->is_symlink())
      check_link(file, folder, cache);
    else if (entry->is_directory())
      continue;
    if (!entry->is_regular_file())
      fail(ErrorKind::config, "{}: neither a file nor a folder; it cannot be uploaded", file.string());
    const std::string path = file.lexically_relative(folder).generic_string();
    if (!is_safe_path(path))
      fail(ErrorKind::config,
           "\"{}\": the Hub cannot take a file of this name: UTF-8 without backslashes and control "
           "characters is "
           "expected, at most 240 bytes",
           file.string());
    out.push_back({.source = file, .path = path, .size = static_cast<int64_t>(entry->file_size())});
  }
  std::ranges::sort(out, {}, &UploadFile::path);
  return out;
}

}  // namespace moerge
