#include "moerge/engine/hollow_file.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <iterator>

#include "moerge/base/error.h"

namespace moerge {

HollowFile::HollowFile(std::string_view header, int64_t size)
    : fd_(memfd_create("moerge-gguf", MFD_CLOEXEC)) {
  if (fd_ < 0) fail_errno("cannot create", "a file in memory");
  const bool sized = ftruncate(fd_, size) == 0;
  if (!sized || pwrite(fd_, header.data(), header.size(), 0) != std::ssize(header)) {
    close(fd_);
    fail_errno("cannot write", "a file in memory");
  }
}

HollowFile::~HollowFile() { close(fd_); }

std::string HollowFile::path() const { return fmt::format("/proc/self/fd/{}", fd_); }

}  // namespace moerge
