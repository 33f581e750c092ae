#pragma once
// One exception type for everything that ends a command. The kind decides the exit code.

#include <fmt/format.h>

#include <exception>
#include <string>
#include <utility>

namespace moerge {

enum class ErrorKind {
  usage,        // wrong command line
  config,       // wrong YAML
  unsupported,  // understood, but this program cannot do it
  input,        // a model file is damaged or does not fit
  io,           // the operating system refused: disk full, permission, vanished file
  interrupted,  // SIGINT or SIGTERM
};

class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message) : kind_(kind), message_(std::move(message)) {}
  ErrorKind kind() const { return kind_; }
  const char* what() const noexcept override { return message_.c_str(); }
  const std::string& message() const { return message_; }  // whole, even when it holds a null character

 private:
  ErrorKind kind_;
  std::string message_;
};

/// Exit code of a command that ended with this kind: 1 it ran but failed, 2 it cannot run as asked, 130
/// interrupted.
int exit_code(ErrorKind kind);

template <typename... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws an io error "ACTION PATH: REASON" from errno.
[[noreturn]] void fail_errno(const std::string& action, const std::string& path);

}  // namespace moerge
