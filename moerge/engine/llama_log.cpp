#include "moerge/engine/llama_log.h"

#include <llama.h>

#include <mutex>

namespace moerge {
namespace {

std::mutex the_log;

}  // namespace

struct LlamaLog::Sink {
  std::unique_lock<std::mutex> owner{the_log};
  mutable std::mutex guard;  // llama.cpp logs from several threads
  std::string text, error;

  static void receive(ggml_log_level level, const char* words, void* self) {
    Sink& sink = *static_cast<Sink*>(self);
    const std::lock_guard lock(sink.guard);
    sink.text += words;
    if (level == GGML_LOG_LEVEL_ERROR) sink.error = words;
  }
};

LlamaLog::LlamaLog() : sink_(std::make_unique<Sink>()) { llama_log_set(&Sink::receive, sink_.get()); }

LlamaLog::~LlamaLog() {
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
}

std::string LlamaLog::text() const {
  const std::lock_guard lock(sink_->guard);
  return sink_->text;
}

std::string LlamaLog::last_error() const {
  const std::lock_guard lock(sink_->guard);
  std::string line = sink_->error;
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.pop_back();
  if (line.empty()) return "it gives no reason";
  const size_t colon = line.find(": ");
  const bool named = colon != std::string::npos && line.find(' ') > colon;
  return named ? line.substr(colon + 2) : line;
}

}  // namespace moerge
