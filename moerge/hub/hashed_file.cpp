#include "moerge/hub/hashed_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "moerge/base/digest.h"
#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/interrupt.h"
#include "moerge/base/parallel.h"

namespace moerge {
namespace {

constexpr int kHashThreads = 8;  // more only wait for the disk

HashedFile::State state_of(const UploadFile& file) {
  struct stat info = {};
  if (stat(file.source.c_str(), &info) != 0) fail_errno("cannot look at", file.source.string());
  return {.size = info.st_size,
          .changed_ns = info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec,
          .inode = info.st_ino};
}

[[noreturn]] void fail_changed(const UploadFile& file) {
  fail(ErrorKind::input,
       "{}: the file changed while it was being uploaded; nothing was committed: push again once it is "
       "finished",
       file.source.string());
}

}  // namespace

void HashedFile::check_unchanged() const {
  if (!file->content && state_of(*file) != state) fail_changed(*file);
}

std::string HashedFile::read() const {
  if (file->content) return *file->content;
  check_unchanged();
  std::string content = read_file(file->source, file->size);
  Digest digest = large ? Digest(Hash::sha256) : git_blob_digest(std::ssize(content));
  digest.add(content);
  if (digest.hex() != id) fail_changed(*file);
  return content;
}

HashedFile hash_file(const UploadFile& file, bool large, Progress& progress) {
  Digest digest = large ? Digest(Hash::sha256) : git_blob_digest(file.size);
  HashedFile out = {.file = &file, .large = large, .id = {}};
  if (file.content) {
    digest.add(*file.content);
    progress.add(file.size);
  } else {
    out.state = state_of(file);
    const File opened = File::open_read(file.source);
    if (out.state.size != file.size || opened.size() != file.size) fail_changed(file);
    read_pieces(opened, 0, file.size, [&](std::span<const std::byte> piece) {
      check_interrupted();
      digest.add(piece);
      progress.add(std::ssize(piece));
    });
    out.check_unchanged();
  }
  out.id = digest.hex();
  return out;
}

std::vector<HashedFile> hash_files(const std::vector<const UploadFile*>& files,
                                   const std::function<bool(const UploadFile&)>& large, Reporter& reporter) {
  int64_t bytes = 0;
  for (const UploadFile* file : files) bytes += file->size;
  Progress progress(reporter, "hashing", bytes);
  std::vector<HashedFile> out(files.size());
  parallel_for(files.size(), std::min(default_threads(), kHashThreads),
               [&](size_t i) { out[i] = hash_file(*files[i], large(*files[i]), progress); });
  if (bytes > 0) progress.finish();
  return out;
}

std::string read_start(const UploadFile& file, int64_t count) {
  if (file.content) return file.content->substr(0, static_cast<size_t>(count));
  const File opened = File::open_read(file.source);
  std::string start(static_cast<size_t>(std::min(count, file.size)), '\0');
  if (opened.size() < std::ssize(start)) fail_changed(file);
  opened.read_at(0, std::as_writable_bytes(std::span(start)));
  return start;
}

bool is_same(const HashedFile& file, const HubFile& there) {
  return file.large == there.sha256.has_value() && file.id == there.etag();
}

}  // namespace moerge
