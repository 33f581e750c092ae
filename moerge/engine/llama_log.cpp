#include "moerge/engine/llama_log.h"

#include <ggml.h>
#include <llama.h>

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "moerge/base/progress.h"

namespace moerge {
namespace {

constexpr size_t kMaxErrors = 20;
std::mutex the_log;
thread_local bool holds_the_log = false;

std::string one_line(std::string text) {
  std::ranges::replace(text, '\n', ' ');
  while (text.ends_with(' ')) text.pop_back();
  return text;
}

// Where it returns the process ends.
void on_abort(const char* message) {
  std::string text = message;  // "FOLDER/FILE:LINE: ..."
  const size_t folder = text.rfind('/', text.find(": "));
  if (folder != std::string::npos) text.erase(0, folder + 1);
  if (holds_the_log) throw std::runtime_error(text);
  print_error_line("moerge: llama.cpp gave up: " + text);
}

}  // namespace

struct LlamaLog::Sink {
  std::unique_lock<std::mutex> owner{the_log};
  mutable std::mutex guard;  // llama.cpp logs from several threads
  std::string text;
  std::vector<std::string> errors;
  bool in_error = false;
  ggml_log_callback log_before = nullptr;
  void* log_data_before = nullptr;
  ggml_abort_callback_t abort_before = nullptr;

  static void receive(ggml_log_level level, const char* words, void* self) {
    Sink& sink = *static_cast<Sink*>(self);
    const std::lock_guard lock(sink.guard);
    sink.text += words;
    if (level != GGML_LOG_LEVEL_CONT) {
      sink.in_error = level == GGML_LOG_LEVEL_ERROR && sink.errors.size() < kMaxErrors;
      if (sink.in_error) sink.errors.emplace_back();
    }
    if (sink.in_error) sink.errors.back() += words;
  }
};

LlamaLog::LlamaLog() : sink_(std::make_unique<Sink>()) {
  llama_log_get(&sink_->log_before, &sink_->log_data_before);
  llama_log_set(&Sink::receive, sink_.get());
  sink_->abort_before = ggml_set_abort_callback(on_abort);
  holds_the_log = true;
}

LlamaLog::~LlamaLog() {
  holds_the_log = false;
  ggml_set_abort_callback(sink_->abort_before);
  llama_log_set(sink_->log_before, sink_->log_data_before);
}

std::string LlamaLog::text() const {
  const std::lock_guard lock(sink_->guard);
  return sink_->text;
}

std::string LlamaLog::first_error() const {
  const std::lock_guard lock(sink_->guard);
  return sink_->errors.empty() ? "" : one_line(sink_->errors.front());
}

std::string LlamaLog::last_error() const {
  const std::lock_guard lock(sink_->guard);
  return sink_->errors.empty() ? "" : one_line(sink_->errors.back());
}

std::string LlamaLog::said() {
  const std::lock_guard lock(sink_->guard);
  std::string text;
  for (const std::string& error : sink_->errors) text += (text.empty() ? "" : " ") + one_line(error);
  sink_->errors.clear();
  return text.empty() ? text : "; llama.cpp says: " + text;
}

}  // namespace moerge
