#include "moerge/base/error.h"

#include <cerrno>
#include <cstring>

namespace moerge {

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage:
    case ErrorKind::config:
    case ErrorKind::unsupported:
      return 2;
    case ErrorKind::input:
    case ErrorKind::io:
      return 1;
    case ErrorKind::interrupted:
      return 130;
  }
  return 1;
}

void fail_errno(const std::string& action, const std::string& path) {
  const int code = errno;
  const char* hint = code == ENOSPC ? " (free some space or choose another output folder)" : "";
  fail(ErrorKind::io, "{} {}: {}{}", action, path, std::strerror(code), hint);
}

}  // namespace moerge
