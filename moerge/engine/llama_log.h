#pragma once
// llama.cpp tells everything to one global log. While a LlamaLog lives, the log goes into it.

#include <memory>
#include <string>

namespace moerge {

class LlamaLog {
 public:
  /// Waits until no other thread holds one.
  LlamaLog();
  LlamaLog(const LlamaLog&) = delete;
  LlamaLog& operator=(const LlamaLog&) = delete;
  ~LlamaLog();

  /// Everything said so far.
  std::string text() const;
  /// The last line that was an error, without llama.cpp's function name in front; or a general sentence.
  std::string last_error() const;

 private:
  struct Sink;
  std::unique_ptr<Sink> sink_;
};

}  // namespace moerge
