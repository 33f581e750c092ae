#include "moerge/engine/llama_memory.h"

#include <ggml-cpp.h>
#include <llama-ext.h>
#include <llama.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "moerge/base/error.h"
#include "moerge/engine/hollow_file.h"
#include "moerge/engine/llama_log.h"

namespace moerge {
namespace {

struct Free {
  void operator()(llama_model* model) const { llama_model_free(model); }
  void operator()(llama_context* context) const { llama_free(context); }
};

// Later errors only say that the whole has failed. "llama_model_load: error loading model: REASON"
[[noreturn]] void refuse(const LlamaLog& log) {
  std::string reason = log.first_error();
  constexpr std::string_view kPrefix = "error loading model: ";
  if (const size_t at = reason.find(kPrefix); at != std::string::npos) reason.erase(0, at + kPrefix.size());
  fail(ErrorKind::input, "llama.cpp does not accept this model: {}",
       reason.empty() ? "no reason given" : reason);
}

LlamaMemory measure(llama_model* model, int64_t tokens, const LlamaLog& log) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(tokens);
  params.no_perf = true;
  const std::unique_ptr<llama_context, Free> context(llama_init_from_model(model, params));
  if (!context) refuse(log);
  LlamaMemory memory;
  for (const auto& [kind, bytes] : llama_get_memory_breakdown(context.get())) {
    memory.cache += static_cast<int64_t>(bytes.context);
    memory.compute += static_cast<int64_t>(bytes.compute);
  }
  return memory;
}

}  // namespace

std::vector<LlamaMemory> llama_memory(const GgufMetadata& metadata, std::span<const TensorSpec> tensors,
                                      std::span<const int64_t> contexts) {
  const GgufLayout layout = layout_gguf(metadata, tensors);
  const HollowFile file(layout.header, layout.file_size);
  llama_model_params params = llama_model_default_params();
  ggml_backend_dev_t no_devices[] = {nullptr};
  params.devices = no_devices;
  params.n_gpu_layers = 0;
  params.no_alloc = true;
  params.load_mode = LLAMA_LOAD_MODE_NONE;  // a file that is mapped would be looked into
  params.use_extra_bufts = false;

  const LlamaLog log;
  try {
    const std::unique_ptr<llama_model, Free> model(llama_model_load_from_file(file.path().c_str(), params));
    if (!model) refuse(log);
    std::vector<LlamaMemory> out;
    for (const int64_t tokens : contexts) out.push_back(measure(model.get(), tokens, log));
    return out;
  } catch (const std::runtime_error& error) {  // an assertion of llama.cpp's, see LlamaLog
    fail(ErrorKind::input, "llama.cpp does not accept this model: {}", error.what());
  }
}

}  // namespace moerge
