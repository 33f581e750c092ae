#pragma once
// llama.cpp tells everything to one global log, and ends the process where an assertion fails.

#include <memory>
#include <string>

namespace moerge {

/// While it lives llama.cpp is silent and what it says is kept; and where it would end the process, on this
/// thread a std::runtime_error comes out instead: most of its checks of a model file are assertions.
class LlamaLog {
 public:
  /// Waits until no other thread holds one; not twice on one thread.
  LlamaLog();
  LlamaLog(const LlamaLog&) = delete;
  LlamaLog& operator=(const LlamaLog&) = delete;
  ~LlamaLog();

  /// Everything said so far.
  std::string text() const;
  /// The first and the last error, as one line each; empty when there was none.
  std::string first_error() const;
  std::string last_error() const;
  /// "; llama.cpp says: ALL ERRORS", or empty; they are forgotten then.
  std::string said();

 private:
  struct Sink;
  std::unique_ptr<Sink> sink_;
};

}  // namespace moerge
