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

// Assertions of llama.cpp's come out as runtime_error, see LlamaLog.
template <typename Work>
auto guarded(const Work& work) {
  const LlamaLog log;
  try {
    return work(log);
  } catch (const std::runtime_error& error) {
    fail(ErrorKind::input, "llama.cpp does not accept this model: {}", error.what());
  }
}

llama_context_params context_params(int64_t tokens, const LlamaUse& use) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(tokens);
  params.no_perf = true;
  params.n_seq_max = static_cast<uint32_t>(use.sequences);
  params.kv_unified = use.unified;
  if (use.outputs > 0) params.n_outputs_max = static_cast<uint32_t>(use.outputs);
  if (use.batch > 0) params.n_batch = static_cast<uint32_t>(use.batch);
  if (use.micro_batch > 0) params.n_ubatch = static_cast<uint32_t>(use.micro_batch);
  if (use.key_type >= 0) params.type_k = static_cast<ggml_type>(use.key_type);
  if (use.value_type >= 0) params.type_v = static_cast<ggml_type>(use.value_type);
  params.flash_attn_type = static_cast<llama_flash_attn_type>(use.flash_attention);
  return params;
}

}  // namespace

struct LlamaMeter::State {
  State(const GgufMetadata& metadata, std::span<const TensorSpec> tensors)
      : layout(layout_gguf(metadata, tensors)), file(layout.header, layout.file_size) {}

  GgufLayout layout;
  HollowFile file;
  std::unique_ptr<llama_model, Free> model;
};

LlamaMeter::LlamaMeter(const GgufMetadata& metadata, std::span<const TensorSpec> tensors)
    : state_(std::make_unique<State>(metadata, tensors)) {
  llama_model_params params = llama_model_default_params();
  ggml_backend_dev_t no_devices[] = {nullptr};
  params.devices = no_devices;
  params.n_gpu_layers = 0;
  params.no_alloc = true;
  params.load_mode = LLAMA_LOAD_MODE_NONE;  // a file that is mapped would be looked into
  params.use_extra_bufts = false;
  guarded([&](const LlamaLog& log) {
    state_->model.reset(llama_model_load_from_file(state_->file.path().c_str(), params));
    if (!state_->model) refuse(log);
  });
}

LlamaMeter::~LlamaMeter() = default;

LlamaMemory LlamaMeter::at(int64_t context, const LlamaUse& use) {
  return guarded([&](const LlamaLog& log) {
    const std::unique_ptr<llama_context, Free> made(
        llama_init_from_model(state_->model.get(), context_params(context, use)));
    if (!made) refuse(log);
    LlamaMemory memory;
    for (const auto& [kind, bytes] : llama_get_memory_breakdown(made.get())) {
      memory.cache += static_cast<int64_t>(bytes.context);
      memory.compute += static_cast<int64_t>(bytes.compute);
    }
    return memory;
  });
}

std::vector<LlamaMemory> llama_memory(const GgufMetadata& metadata, std::span<const TensorSpec> tensors,
                                      std::span<const int64_t> contexts) {
  LlamaMeter meter(metadata, tensors);
  std::vector<LlamaMemory> out;
  for (const int64_t tokens : contexts) out.push_back(meter.at(tokens, {}));
  return out;
}

}  // namespace moerge
