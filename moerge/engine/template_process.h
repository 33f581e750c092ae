#pragma once
// Jinja templates, rendered by llama.cpp's engine in a process of their own.

#include <chrono>
#include <string>
#include <vector>

#include "moerge/base/json.h"

namespace moerge {

struct TemplateSource {
  std::string name;  // for messages: "the chat template", "doc_to_text"
  std::string text;
  /// A value that is not there is an error and not an empty text, and the end of a last line stays.
  bool strict = false;
};

/// A template is a program by whoever wrote it, and the engine limits neither its steps nor its recursion. So
/// it runs in a process of its own, which may take `max_time` and 512 MB at once and return 64 MB; one that
/// goes beyond that is an error and nothing worse. Not for several threads at once.
class TemplateProcess {
 public:
  /// `where` starts messages.
  TemplateProcess(std::vector<TemplateSource> sources, std::string where,
                  std::chrono::seconds max_time = std::chrono::seconds(10));
  TemplateProcess(const TemplateProcess&) = delete;
  TemplateProcess& operator=(const TemplateProcess&) = delete;
  ~TemplateProcess();

  /// What sources[index] makes of the members of an object; spaces and line ends around blocks go as in chat
  /// templates (trim_blocks, lstrip_blocks). `where` instead of the constructor's, when given. Throws input
  /// when the template is damaged, refuses, or exceeds the limits (and then at every further call).
  std::string render(size_t index, const Json& globals, const std::string& where = "");

 private:
  void stop();
  [[noreturn]] void fail_ended(const std::string& which, const std::string& where);

  std::vector<TemplateSource> sources_;
  std::string where_;
  std::chrono::seconds max_time_;
  int socket_ = -1;
  int process_ = -1;
};

}  // namespace moerge
