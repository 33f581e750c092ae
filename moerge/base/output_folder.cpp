#include "moerge/base/output_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "moerge/base/error.h"
#include "moerge/base/file.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

fs::path clean_target(const fs::path& target) {
  fs::path path = fs::weakly_canonical(fs::absolute(target));
  if (!path.has_filename()) path = path.parent_path();
  if (!path.has_filename()) fail(ErrorKind::usage, "{} cannot be an output folder", target.string());
  return path;
}

// The folder that will hold the output must be there or be creatable.
void check_parent(const fs::path& target) {
  fs::path parent = target.parent_path();
  while (!fs::exists(parent) && parent.has_relative_path()) parent = parent.parent_path();
  if (!fs::is_directory(parent))
    fail(ErrorKind::io, "cannot create {}: {} is not a folder", target.string(), parent.string());
  if (access(parent.c_str(), W_OK | X_OK) != 0) fail_errno("cannot write into", parent.string());
}

bool is_mount_point(const fs::path& folder) {
  struct stat inside = {}, outside = {};
  return stat(folder.c_str(), &inside) == 0 && stat(folder.parent_path().c_str(), &outside) == 0 &&
         inside.st_dev != outside.st_dev;
}

}  // namespace

void check_output_folder(const fs::path& target, bool overwrite) {
  if (target.empty()) fail(ErrorKind::usage, "OUT is empty: name a folder to write to");
  if (fs::is_symlink(fs::symlink_status(target)) && !fs::exists(target))
    fail(ErrorKind::usage, "{} is a symbolic link to nothing", target.string());
  const fs::path path = clean_target(target);
  check_parent(path);
  if (!fs::exists(path)) return;
  if (is_mount_point(path))
    fail(ErrorKind::usage,
         "{} is a mount point, which cannot be replaced by a finished folder: choose a folder inside it",
         target.string());
  if (!fs::is_directory(path)) fail(ErrorKind::usage, "{} exists and is not a folder", target.string());
  if (fs::is_empty(path)) return;
  if (!overwrite)
    fail(ErrorKind::usage,
         "{} exists and is not empty: choose another folder, or replace it with --overwrite",
         target.string());
  const auto has = [&](const char* name) { return fs::exists(path / name); };
  // The YAML is all that a merge of files without a configuration has beside its weights.
  if (!has("config.json") && !has("adapter_config.json") && !has("mergekit_config.yml"))
    fail(ErrorKind::usage,
         "{} holds no model (no config.json), so --overwrite does not replace it: choose another folder",
         target.string());
}

namespace {

fs::path partial_name(const fs::path& target) {
  return target.parent_path() / ("." + target.filename().string() + ".moerge-partial");
}

}  // namespace

fs::path partial_folder(const fs::path& target) { return partial_name(clean_target(target)); }

int64_t unfinished_bytes(const fs::path& target) {
  int64_t bytes = 0;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(partial_folder(target), error)) {
    struct stat info = {};
    if (lstat(entry.path().c_str(), &info) == 0) bytes += info.st_blocks * 512;
  }
  return bytes;
}

OutputFolder::OutputFolder(const fs::path& target, bool overwrite, Use use)
    : overwrite_(overwrite), kept_(use == Use::together) {
  check_output_folder(target, overwrite);
  target_ = clean_target(target);
  partial_ = partial_name(target_);
  std::error_code error;
  fs::create_directories(target_.parent_path(), error);
  if (error) fail(ErrorKind::io, "cannot create {}: {}", target_.parent_path().string(), error.message());
  bool made = false;
  try {
    lock(use, made);
  } catch (const Error&) {
    if (made) remove_if_empty();
    throw;
  }
}

void OutputFolder::remove_if_empty() {
  if (rmdir(partial_.c_str()) != 0) return;  // there is something in it, or it is no folder
}

// `made`: the folder was not there before.
void OutputFolder::lock(Use use, bool& made) {
  for (;;) {
    made = mkdir(partial_.c_str(), 0777) == 0;
    if (!made && errno != EEXIST) fail_errno("cannot create", partial_.string());
    lock_ = open(partial_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (lock_ < 0 && errno == ENOENT) continue;  // the other run has just renamed it
    if (lock_ < 0) fail_errno("cannot open", partial_.string());
    int result = 0;
    do result = flock(lock_, (use == Use::alone ? LOCK_EX : LOCK_SH) | LOCK_NB);
    while (result != 0 && errno == EINTR);
    if (result != 0 && errno == EWOULDBLOCK) {  // else the file system has no locks on folders
      close(lock_);
      fail(ErrorKind::io, "another moerge is writing {} at this moment", target_.string());
    }
    // The other run may have renamed the folder between our open and our lock: then we hold its finished
    // output.
    struct stat held = {}, named = {};
    if (fstat(lock_, &held) == 0 && stat(partial_.c_str(), &named) == 0 && held.st_ino == named.st_ino)
      return;
    close(lock_);
  }
}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  if (!committed_ && !kept_) fs::remove_all(partial_, ignored);
  close(lock_);
}

void OutputFolder::clear(const std::function<bool(const std::string&)>& keep) {
  for (const fs::directory_entry& entry : fs::directory_iterator(partial_))
    if (!fs::is_regular_file(entry.symlink_status()) || fs::hard_link_count(entry.path()) > 1 ||
        !keep(entry.path().filename().string()))
      fs::remove_all(entry.path());
}

void OutputFolder::sync() const {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(partial_))
    if (entry.is_directory() && !entry.is_symlink())
      sync_folder(entry.path());
    else if (entry.is_regular_file())
      File::open_read(entry.path()).sync();
  sync_folder(partial_);
}

namespace {

// For file systems that cannot exchange two names: the old output stands aside for the moment between two
// renames.
void replace_by_two_renames(const fs::path& finished, const fs::path& target, const fs::path& aside) {
  if (rename(target.c_str(), aside.c_str()) != 0) fail_errno("cannot move aside", target.string());
  if (rename(finished.c_str(), target.c_str()) == 0) return;
  const int code = errno;
  if (rename(aside.c_str(), target.c_str()) != 0)
    fail_errno("the old output is now in " + aside.string() + "; cannot restore", target.string());
  errno = code;
  fail_errno("cannot rename the finished folder to", target.string());
}

}  // namespace

void OutputFolder::commit() {
  check_output_folder(target_, overwrite_);  // somebody may have filled it meanwhile
  const fs::path aside = partial_.string() + "-old";
  const bool replaces = fs::exists(target_) && !fs::is_empty(target_);
  fs::path old_output;
  if (!replaces) {
    if (rename(partial_.c_str(), target_.c_str()) != 0)
      fail_errno("cannot rename the finished folder to", target_.string());
  } else if (renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
    old_output = partial_;
  } else {
    replace_by_two_renames(partial_, target_, aside);
    old_output = aside;
  }
  committed_ = true;
  sync_folder(target_.parent_path());
  std::error_code ignored;  // the new output is in place; what cannot be removed is cleaned by the next run
  if (!old_output.empty()) fs::remove_all(old_output, ignored);
}

}  // namespace moerge
